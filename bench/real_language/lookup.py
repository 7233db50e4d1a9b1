"""transformers' prompt lookup: its drafts are what followed the same words earlier in the text."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch

LOOKED_UP = 10


class Lookup(NamedTuple):
    """One greedy decoding with prompt lookup."""

    tokens: torch.Tensor
    """`[new]` int64."""
    seconds: float
    """After the first call of the target, which is the prefill."""
    emitted: int
    """Tokens in these seconds."""
    calls: int
    """Calls of the target in these seconds."""


def decode(target: Any, inputs: dict[str, Any], **settings: Any) -> Lookup:
    """Decode `inputs`, `input_ids` `[1, prompt]` and `attention_mask`, as `generate` does it."""
    calls = _Calls()
    sequence = target.generate(
        **inputs, **settings, prompt_lookup_num_tokens=LOOKED_UP, streamer=calls
    )[0]
    ended = time.perf_counter()
    first, *later = calls.emitted
    return Lookup(
        sequence[inputs["input_ids"].shape[1] :],
        ended - calls.first_at,
        sum(later),
        len(later),
    )


class _Calls:
    """A streamer that counts what each call of the target emitted; the prompt comes first."""

    def __init__(self) -> None:
        self.first_at = 0.0
        self.emitted: list[int] = []
        self._is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        if self._is_prompt:
            self._is_prompt = False
            return
        if not self.emitted:
            self.first_at = time.perf_counter()
        self.emitted.append(value.numel())

    def end(self) -> None:
        """Nothing to do: the call ends right after."""
