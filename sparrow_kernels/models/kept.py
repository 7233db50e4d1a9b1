"""What a cache holds of a prompt, so that a later call can go on behind what is the same.

A second question about a clip begins with the same thousands of tokens. Whether it does is
decided by what arrives at the language model, embeddings and positions bit for bit, not by ids:
another clip of the same length has the same ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from sparrow_kernels.models.prompt import RequestPrompt

_SLOTS_AT_ONCE = 1024
_FEWEST = 16
"""A prefix shorter than this is not worth a second forward."""


@dataclass
class KeptPrompt:
    """One request's prompt, of which a cache holds keys and values."""

    marks: Tensor
    """`[n]` int64: what each slot was computed from, as a hash of its bits."""
    slots: Tensor
    """`[R]` int64 slots of text tokens, but the first of the sequence."""
    hidden: Tensor
    """`[R, H]` for each the top state that it is paired with."""
    slice_clip: bool

    def shared_with(self, marks: Tensor, slice_clip: bool) -> int:
        """How many slots another prompt can take over; it runs at least one of its own."""
        if slice_clip != self.slice_clip:
            return 0
        shortest = min(len(marks), len(self.marks))
        different = (marks[:shortest] != self.marks[:shortest]).nonzero()
        same = int(different[0, 0]) if len(different) else shortest
        # The last one runs again: the token behind it wants its state.
        return same - 1 if same - 1 >= _FEWEST else 0


def marks_of(prompt: RequestPrompt) -> Tensor:
    """`[n]` int64, equal where embeddings and positions are, bit for bit."""
    embeddings = prompt.embeddings[0]
    bits = embeddings.contiguous().view(torch.int16 if embeddings.itemsize == 2 else torch.int32)
    factors = _factors(bits.shape[1], bits.device)
    marks = [(part.long() * factors).sum(dim=1) for part in bits.split(_SLOTS_AT_ONCE)]
    positions = prompt.positions.reshape(-1, len(prompt.ids)).long()
    weights = _factors(len(positions) + 1, bits.device)[1:, None]
    return torch.cat(marks) * 31 + (positions * weights).sum(dim=0)


@cache
def _factors(count: int, device: torch.device) -> Tensor:
    """`[count]` odd int64, the same ones always; sums wrap around."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(-(2**62), 2**62, (count,), generator=generator)
    return (2 * drawn + 1).to(device)
