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
        device: where numbers are wanted.
        generators: with one for each request its text does not depend on its neighbours.
    """

    def __init__(self, batch: int, device: torch.device, generators: Generators = None) -> None:
        self._batch, self._device = batch, device
        self._each = None if isinstance(generators, torch.Generator | None) else list(generators)
        self._one = generators if isinstance(generators, torch.Generator) else None

    @property
    def is_torchs_own(self) -> bool:
        """Whether draws come from torch's default generator, which graphs know how to replay."""
        return self._each is None and self._one is None

    def uniform(self, *shape: int) -> Tensor:
        """`[B, *shape]` float32 in [0, 1)."""
        empty = torch.empty((self._batch, *shape), dtype=torch.float32, device=self._device)
        return self._drawn(empty, lambda out, generator: out.uniform_(generator=generator))

    def exponential(self, like: Tensor) -> Tensor:
        """Draws of Exponential(1), shaped as `like` `[B, ...]`."""
        empty = torch.empty_like(like)
        return self._drawn(empty, lambda out, generator: out.exponential_(generator=generator))

    def _drawn(
        self, empty: Tensor, draw: Callable[[Tensor, torch.Generator | None], Tensor]
    ) -> Tensor:
        if self._each is None:
            return draw(empty, self._one)
        for row, generator in zip(empty, self._each, strict=True):
            draw(row, generator)
        return empty
