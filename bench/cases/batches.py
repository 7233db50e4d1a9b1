"""Verifying a batch of trees: apart from the single ones, since a GPU takes minutes for either."""

from __future__ import annotations

from collections.abc import Iterator

from bench.case import Case
from bench.cases.attention import CELLS, TreeAttention
from bench.selection import Selection

KINDS: tuple[type[Case], ...] = ()  # those of attention


def cases(selection: Selection) -> Iterator[Case]:
    if selection.device != "cuda" or selection.size != "full":
        return
    for prefix, nodes in CELLS:
        yield TreeAttention(selection.dtype, prefix=prefix, nodes=nodes, batch=8)
    yield TreeAttention(selection.dtype, batch=32, prefix=4_096)
