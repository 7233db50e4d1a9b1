"""Queries, outputs and log-sum-exps: FlashInfer's rows, and the batch our ops take."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparrow_kernels.integrations.arguments import check, check_kind, refuse
from sparrow_kernels.integrations.ragged import batched, in_a_row


def batched_rows(rows: Tensor, qo_indptr: Tensor, size: int) -> Tensor:
    """FlashInfer's query or output rows as our ops take them.

    Args:
        rows: `[rows, H, D]` any dtype, the rows of request b from `qo_indptr[b]` on.
        qo_indptr: `[B + 1]` int32.
        size: T, the most rows of a request.

    Returns:
        `[B, H, T, D]`, 0 where a request has fewer rows; a copy.

    Raises:
        ValueError: wrong shape. TypeError: wrong dtype or device.
    """
    op = "batched_rows"
    check(op, "rows", rows, [-1, -1, -1], None)
    _check_indptr(op, qo_indptr, rows.device)
    return batched(rows, qo_indptr, size, 0).transpose(1, 2)


def ragged_rows(batch: Tensor, qo_indptr: Tensor, num_rows: int) -> Tensor:
    """The inverse of `batched_rows`: `[B, H, T, D]` to `[num_rows, H, D]`.

    Rows from `qo_indptr[-1]` on are 0. Arguments and errors are those of `batched_rows`.
    """
    op = "ragged_rows"
    check(op, "batch", batch, [-1, -1, -1, -1], None)
    _check_indptr(op, qo_indptr, batch.device, batch.shape[0])
    return in_a_row(batch.transpose(1, 2), qo_indptr, num_rows, 0)


def natural_lse(lse: Tensor, qo_indptr: Tensor, size: int) -> Tensor:
    """FlashInfer's log-sum-exp, base 2 and by rows, as `merge_attention` takes it.

    Args:
        lse: `[rows, H]` float32, as a wrapper returns it with `return_lse=True`.
        qo_indptr: `[B + 1]` int32.
        size: T, the most rows of a request.

    Returns:
        `[B, H, T]` float32, natural; -inf where a request has fewer rows. The same value: base-2
        logarithms are natural ones divided by ln 2.

    Raises:
        ValueError: wrong shape. TypeError: wrong dtype or device.
    """
    op = "natural_lse"
    check(op, "lse", lse, [-1, -1], torch.float32)
    _check_indptr(op, qo_indptr, lse.device)
    return (batched(lse, qo_indptr, size, -math.inf) * math.log(2)).transpose(1, 2)


def base2_lse(lse: Tensor, qo_indptr: Tensor, num_rows: int) -> Tensor:
    """The inverse of `natural_lse`: ours, for FlashInfer's `merge_state`.

    Args:
        lse: `[B, H, T]` float32, natural, as `tree_attention` returns it.
        qo_indptr: `[B + 1]` int32.
        num_rows: rows of the result.

    Returns:
        `[num_rows, H]` float32, base 2; -inf from `qo_indptr[-1]` on.

    Raises:
        ValueError: wrong shape. TypeError: wrong dtype or device.
    """
    op = "base2_lse"
    check(op, "lse", lse, [-1, -1, -1], torch.float32)
    _check_indptr(op, qo_indptr, lse.device, lse.shape[0])
    return in_a_row(lse.transpose(1, 2), qo_indptr, num_rows, -math.inf) / math.log(2)


def _check_indptr(op: str, indptr: Tensor, device: torch.device, batch: int | None = None) -> None:
    check_kind(op, "qo_indptr", indptr, torch.int32, device)
    wanted = "[B + 1]" if batch is None else f"[B + 1] = [{batch + 1}]"
    if indptr.dim() != 1 or indptr.shape[0] < 1 or batch not in (None, indptr.shape[0] - 1):
        refuse(op, "qo_indptr", wanted, list(indptr.shape))
