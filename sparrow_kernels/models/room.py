"""How long a sequence buffers have room for, before it is known how long it gets."""

from __future__ import annotations

_FIRST_NEW_TOKENS = 1024
"""Requests for no more than this, or than the prompt, get their room at once and never move."""


class Room:
    """Tokens there is room for, prompt included; doubled where it runs out.

    `max_new_tokens` may be a bound that no one expects to reach, so it is not allocated at once.

    Args:
        prompt_length: tokens of the prompt.
        most: tokens the sequence may have at most.
    """

    def __init__(self, prompt_length: int, most: int) -> None:
        self._most = most
        self.tokens = min(most, prompt_length + max(prompt_length, _FIRST_NEW_TOKENS))

    def grows_for(self, tokens: int) -> bool:
        """Whether `tokens` did not fit, so that buffers have to follow the room that is now."""
        needed = min(tokens, self._most)
        if needed <= self.tokens:
            return False
        self.tokens = min(self._most, max(needed, 2 * self.tokens))
        return True
