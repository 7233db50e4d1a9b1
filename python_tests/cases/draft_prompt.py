"""A prompt as drafts may read it: tokens, what a target made of them, positions, clips."""

from __future__ import annotations

from itertools import groupby
from typing import Literal, NamedTuple

import torch
from torch import Tensor

PositionRule = Literal["compact", "sequence", "mrope"]


class Prompt(NamedTuple):
    tokens: Tensor  # [n] int64, the placeholder's id at visual slots
    visual: Tensor  # [n] bool
    embeddings: Tensor  # [n, H] the target's input, of a visual slot the clip's own feature
    states: list[Tensor]  # L + 1 of [n, H]: the embedding first, the last after the final norm
    positions: Tensor  # [3, n] M-RoPE (t, h, w), equal at text slots


def flat(position: int) -> Tensor:
    return torch.full((3,), position)


def runs(visual: list[bool]) -> list[range]:
    """The contiguous runs of visual slots."""
    found = []
    for is_visual, slots in groupby(range(len(visual)), key=lambda slot: visual[slot]):
        if is_visual:
            run = list(slots)
            found.append(range(run[0], run[-1] + 1))
    return found
