"""The caches of a case in pages: shuffled, with a prefix that requests share, poison elsewhere."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from attention_oracle import Case
from torch import Tensor

from sparrow_kernels.ops.attention import tree_attention

LAYOUTS = ("heads first", "slots first", "one tensor")
"""Of a page: `[Hkv, page_size, D]`, `[page_size, Hkv, D]` with K and V apart, or side by side."""
_NO_PAGE = (-1, 2**31 - 1, -(2**31))


def sharing(case: Case, slots: int) -> Case:
    """The same, all requests beginning with the first `slots` rows of request 0."""
    other = replace(case)
    for cache in (other.key, other.value):
        cache[:, :, :slots] = cache[:1, :, :slots].clone()
    return other


class Pages:
    """Keys and values of `case` in pages; where `shared`, the first so many pages are all's own.

    Nothing else than the slots that a request sees, in pages of its own, is other than NaN.
    Entries of the table behind a request's last slot name no page.
    """

    def __init__(
        self, case: Case, page_size: int, layout: str = LAYOUTS[0], shared: int = 0, seed: int = 0
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        batch, pages = len(case.rows), -(-case.capacity // page_size)
        num_pages = batch * pages + 3
        free = torch.randperm(num_pages, generator=generator).tolist()
        shape = (num_pages, case.kv_heads, page_size, case.head_dim)
        if layout == "slots first":
            shape = (num_pages, page_size, case.kv_heads, case.head_dim)
        both = torch.full((2, *shape), math.nan, dtype=case.dtype)
        if layout == "one tensor":
            both = torch.full((num_pages, 2, *shape[1:]), math.nan, dtype=case.dtype).transpose(
                0, 1
            )
        self.key, self.value = both.transpose(2, 3) if layout == "slots first" else both
        self.table = torch.zeros((batch, pages), dtype=torch.int32)
        common = [free.pop() for _ in range(shared)]
        for b in range(batch):
            seen = [slot for row in range(len(case.rows[b])) for slot in case.seen(b, row)]
            used = -(-max([case.prefix_lens[b], *(slot + 1 for slot in seen)]) // page_size)
            own = [common[k] if k < shared else free.pop() for k in range(used)]
            rest = [_NO_PAGE[k % len(_NO_PAGE)] for k in range(pages - used)]
            self.table[b] = torch.tensor([*own, *rest])
            for slot in set(seen):
                page, row = own[slot // page_size], slot % page_size
                self.key[page, :, row] = case.key[b, :, slot]
                self.value[page, :, row] = case.value[b, :, slot]
        self.case = case
        self.slots = pages * page_size

    def run(self, device: str = "cpu", **more: object) -> tuple[Tensor, Tensor]:
        """The op's result on the pages."""
        query, _, _, words, lens = (each.to(device) for each in self.case.arguments())
        wide = replace(self.case, capacity=self.slots) if self.case.anchors else self.case
        options = {
            name: each.to(device) if isinstance(each, Tensor) else each
            for name, each in self.case.options().items()
        }
        if wide.anchors:
            index = wide.index()
            options["anchors"] = type(index)(*(each.to(device) for each in index))
        out, lse = tree_attention(
            query,
            self.key.to(device),
            self.value.to(device),
            words,
            lens,
            **options,
            return_lse=True,
            block_table=self.table.to(device),
            **more,
        )
        return out.cpu(), lse.cpu()
