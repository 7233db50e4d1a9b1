"""Rows of several requests, one request behind the other, and the same rows in a batch.

Engines keep the rows of a step without padding, `[rows, ...]`, beside the offsets of the requests:
request b has rows `indptr[b]` up to `indptr[b + 1]`. Our ops take a batch `[B, T, ...]`. Neither
direction waits for the device: the caller says how many rows there are.
"""

from __future__ import annotations

import torch
from torch import Tensor


def batched(rows: Tensor, indptr: Tensor, size: int, fill: float) -> Tensor:
    """`[rows, ...]` to `[B, size, ...]`: each request's first `size` rows, then `fill`."""
    place = torch.arange(size, device=rows.device)
    index = indptr[:-1, None].long() + place
    is_row = (index < indptr[1:, None]) & (index >= 0) & (index < rows.shape[0])
    shape = (*is_row.shape, *rows.shape[1:])
    if rows.shape[0] == 0:
        return rows.new_full(shape, fill)
    found = rows[index.clamp(0, rows.shape[0] - 1)]
    return torch.where(is_row.view(*is_row.shape, *[1] * (rows.dim() - 1)), found, fill)


def in_a_row(batch: Tensor, indptr: Tensor, num_rows: int, fill: float) -> Tensor:
    """`[B, T, ...]` to `[num_rows, ...]`; what lies behind the last request's rows is `fill`."""
    shape = (num_rows, *batch.shape[2:])
    if batch.shape[0] == 0 or batch.shape[1] == 0:
        return batch.new_full(shape, fill)
    request, place = homes(indptr, num_rows)
    is_row = (request < batch.shape[0]) & (place >= 0) & (place < batch.shape[1])
    found = batch[request.clamp(max=batch.shape[0] - 1), place.clamp(0, batch.shape[1] - 1)]
    return torch.where(is_row.view(-1, *[1] * (batch.dim() - 2)), found, fill)


def homes(indptr: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """`[num_rows]` int64: the request of each row, B behind the last, and its place therein."""
    row = torch.arange(num_rows, device=indptr.device)
    # Of requests that begin at one row all but the last are empty, and are passed over.
    request = torch.searchsorted(indptr[1:].long().contiguous(), row, right=True)
    return request, row - indptr.long()[request.clamp(max=indptr.shape[0] - 1)]


def offsets(counts: Tensor) -> Tensor:
    """`[B]` counts to `[B + 1]` int64: where each request begins, and where the last ends."""
    return torch.nn.functional.pad(counts.long().cumsum(0), (1, 0))
