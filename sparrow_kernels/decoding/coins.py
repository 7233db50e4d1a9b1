"""Random numbers of a call: one stream for all its requests, or one for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator] | None
"""torch's own, one that all requests draw from, or one for each."""


class Coins:
    """What sampling draws from.

    Args:
        batch: requests.
        nodes: T; a step needs a coin for each and one for the bonus.
        device: where numbers are wanted.
        generators: with one for each request its text does not depend on its neighbours.
    """

    def __init__(
        self, batch: int, nodes: int, device: torch.device, generators: Generators = None
    ) -> None:
        self.uniform = torch.zeros((batch, nodes + 1), dtype=torch.float32, device=device)
        """`[B, T + 1]` in [0, 1): what was last tossed, for each node and for the bonus."""
        self.draw_from(generators)

    def draw_from(self, generators: Generators) -> None:
        """Draw from these from now on."""
        single = generators is None or isinstance(generators, torch.Generator)
        self._each = None if single else list(generators)  # type: ignore[arg-type]
        self._one = generators if isinstance(generators, torch.Generator) else None

    @property
    def are_torchs_own(self) -> bool:
        """Whether draws come from torch's default generator, which a CUDA graph can replay."""
        return self._each is None and self._one is None

    def toss(self) -> None:
        """Draw a step's coins; not captured, so that any generator will do."""
        self._draw(self.uniform, lambda out, generator: out.uniform_(generator=generator))

    def exponential(self, like: Tensor) -> Tensor:
        """Draws of Exponential(1), shaped as `like` `[B, ...]`."""
        drawn = torch.empty_like(like)
        self._draw(drawn, lambda out, generator: out.exponential_(generator=generator))
        return drawn

    def _draw(self, out: Tensor, draw: Callable[[Tensor, torch.Generator | None], Tensor]) -> None:
        if self._each is None:
            draw(out, self._one)
            return
        for row, generator in zip(out, self._each, strict=True):
            draw(row, generator)
