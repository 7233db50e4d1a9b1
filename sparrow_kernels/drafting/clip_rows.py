"""What stands for a clip in a draft that is let see it, past `fc`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sparrow_kernels.drafting.network import DraftNetwork


class ClipRows(NamedTuple):
    """Rows of one prompt's clips, ready for the layer."""

    rows: Tensor
    """`[C', H]`."""
    places: Tensor
    """`[C']` int64: the slot, of the clips' slots, that each stands at."""
    shifts: Tensor | None
    """`[runs + 1, H]` what is added to text rows behind so many runs, from an adaptor."""


def clip_rows(network: DraftNetwork, sees_clip: str, clip: Tensor, runs: Sequence[int]) -> ClipRows:
    """Rows for `clip` `[C, H]`: embeddings, or states of the middle layer; `runs` are its lengths.

    Differentiable.
    """
    places = torch.arange(len(clip), device=clip.device)
    if sees_clip == "middle":
        return ClipRows(network.normed_embedding(clip), places, None)
    if sees_clip == "embeddings":
        return ClipRows(clip, places, None)
    # A text without a clip has none of the first two, and a shift of nothing.
    rows, kept, shifts = [clip[:0]], [places[:0]], [clip.new_zeros(clip.shape[1])]
    for run, where in zip(clip.split(list(runs)), places.split(list(runs)), strict=True):
        answers, shift = network.adaptor(run)
        count = adapted(network, len(run))
        rows.append(answers[:count])
        kept.append(where[len(run) - count :])
        shifts.append(shift)
    return ClipRows(torch.cat(rows), torch.cat(kept), torch.stack(shifts))


def adapted(network: DraftNetwork, run: int) -> int:
    """Rows that an adaptor makes of a run of slots: they stand at its last ones."""
    return min(network.shape.clip_queries - 1, run)
