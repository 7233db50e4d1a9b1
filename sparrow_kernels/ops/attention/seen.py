"""What the rows of one request see, split for a CPU: the slots all rows see, and the others.

The first kind needs no mask. The second is small: the tree slots, and the committed slots at the
edge of the window, which the deeper rows have already left behind.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class TreePart(NamedTuple):
    """What the rows of one request see of its tree slots."""

    slots: tuple[int, ...]
    """The tree slots that some row sees, ascending."""
    consecutive: bool
    """Whether they are the first ones, without a gap: the cache can be read in place."""
    bias: Tensor | None
    """`[G * T, n]` 0 or -inf over `slots`; None where they are consecutive and seen by every
    row."""


@lru_cache(maxsize=64)
def tree_part(
    words: tuple[int, ...], rows: int, room: int, group: int, dtype: torch.dtype
) -> TreePart:
    """Read the `[T, W]` ancestor `words`; bits from `room` on lie outside the cache.

    Remembered by value: every layer of a model asks the same of one step's tree.
    """
    width = len(words) // rows
    inside = (1 << room) - 1
    row_bits = []
    for row in range(rows):
        bits = 0
        for word in range(width):
            bits |= (words[row * width + word] & 0xFFFF_FFFF_FFFF_FFFF) << (64 * word)
        row_bits.append(bits & inside)
    union = 0
    for bits in row_bits:
        union |= bits
    slots = tuple(j for j in range(union.bit_length()) if union >> j & 1)
    consecutive = union & (union + 1) == 0
    if consecutive and all(bits == union for bits in row_bits):
        return TreePart(slots, consecutive, None)
    seen = [[bits >> j & 1 for j in slots] for bits in row_bits]
    # log 1 = 0, log 0 = -inf. Rows are packed group by group, so the rows' biases repeat.
    bias = torch.tensor(seen, dtype=dtype, device="cpu").log().repeat(group, 1)
    return TreePart(slots, consecutive, bias)


class AnchoredPart(NamedTuple):
    """What the rows of one request see of its committed slots, under anchors and a window."""

    anchors: Tensor
    """`[a]` int64 slots before `window_start` that every row sees."""
    window_start: int
    """From here to the end of the prefix every row sees every slot."""
    edge: Tensor
    """`[e]` int64 slots before `window_start` that some rows see."""
    edge_bias: Tensor
    """`[G * T, e]` 0 or -inf."""


def anchored_part(
    anchor_slots: Tensor,
    anchor_rank: Tensor,
    window: int,
    depth: Tensor,
    start: int,
    length: int,
    group: int,
    dtype: torch.dtype,
) -> AnchoredPart:
    """Split slots `[start, length)` of a request with anchors `[A]`, rank `[N + 1]`, depth `[T]`.

    A row of depth d sees slot s by the window iff `length + d - s < window`, so from slot
    `length + d - window + 1` on.
    """
    depths = depth.tolist()
    window_start = min(max(length + max(depths) - window + 1, start), length)
    edge_start = min(max(length + min(depths) - window + 1, start), window_start)
    listed = anchor_slots.shape[0]
    first, at_edge, last = (
        min(max(rank, 0), listed)
        for rank in anchor_rank[[start, edge_start, window_start]].tolist()
    )
    # Clamped, so that a malformed index reads a wrong slot, never one outside the cache.
    anchors = anchor_slots[first : max(first, last)].long().clamp(start, max(length - 1, 0))
    known = set(anchor_slots[at_edge : max(at_edge, last)].tolist())
    edge = torch.tensor(
        [slot for slot in range(edge_start, window_start) if slot not in known], dtype=torch.int64
    )
    sees = length + depth.long().unsqueeze(1) - edge < window
    return AnchoredPart(anchors, window_start, edge, sees.to(dtype).log().repeat(group, 1))
