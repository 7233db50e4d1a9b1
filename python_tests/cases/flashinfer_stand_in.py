"""FlashInfer 0.3.1 as far as the benchmark calls it, in plain PyTorch.

By what its documentation and its kernels' addressing say: bytes of a mask are read from the lowest
bit, log-sum-exps are base 2, the slots of a page and their heads lie by the cache's own strides.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


def packbits(x: Tensor, bitorder: str = "big") -> Tensor:
    assert x.dim() == 1 and x.dtype == torch.bool
    bits = torch.nn.functional.pad(x.long(), (0, -len(x) % 8)).view(-1, 8)
    place = torch.arange(8)
    weight = 1 << (place if bitorder == "little" else 7 - place)
    return (bits * weight).sum(1).to(torch.uint8)


def single_prefill_with_kv_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    packed_custom_mask: Tensor,
    kv_layout: str = "NHD",
    backend: str = "auto",
) -> Tensor:
    assert (kv_layout, backend) == ("HND", "fa2")
    return _attended(q, k, v, packed_custom_mask)[0]


def merge_state_in_place(v: Tensor, s: Tensor, v_other: Tensor, s_other: Tensor) -> None:
    lses = torch.stack((s, s_other)) * math.log(2)
    share = lses.softmax(0).unsqueeze(-1)
    v.copy_(share[0] * v + share[1] * v_other)
    s.copy_(lses.logsumexp(0) / math.log(2))


class BatchPrefillWithPagedKVCacheWrapper:
    def __init__(
        self, float_workspace_buffer: Tensor, kv_layout: str = "NHD", *, backend: str = "auto"
    ) -> None:
        assert (kv_layout, backend) == ("HND", "fa2")

    def plan(
        self,
        qo_indptr: Tensor,
        paged_kv_indptr: Tensor,
        paged_kv_indices: Tensor,
        paged_kv_last_page_len: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        page_size: int,
        *,
        custom_mask: Tensor | None = None,
        q_data_type: torch.dtype = torch.float16,
        kv_data_type: torch.dtype | None = None,
    ) -> None:
        counts = (qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len)
        assert all(each.dtype == torch.int32 for each in counts)
        self.rows, self.starts, self.pages, self.last = (each.tolist() for each in counts)
        self.sizes = (num_qo_heads, num_kv_heads, head_dim_qk, page_size)
        self.mask, self.types = custom_mask, (q_data_type, kv_data_type or q_data_type)

    def run(
        self, q: Tensor, paged_kv_cache: tuple[Tensor, Tensor], return_lse: bool = False
    ) -> Any:
        k, v = paged_kv_cache
        assert q.is_contiguous() and k.stride() == v.stride()
        assert (q.dtype, k.dtype) == self.types
        assert (q.shape[1], k.shape[1], q.shape[2], k.shape[2]) == self.sizes
        outs, bit = [], 0
        for request, last in enumerate(self.last):
            begin, end = self.starts[request : request + 2]
            slots = (end - begin - 1) * k.shape[2] + last
            rows = q[self.rows[request] : self.rows[request + 1]]
            mask = None
            if self.mask is not None:
                bits = self.mask[bit : bit + len(rows) * slots]
                mask, bit = packbits(bits, bitorder="little"), bit + len(bits)
            heads = (
                torch.cat([cache[page] for page in self.pages[begin:end]], 1)[:, :slots]
                for cache in (k, v)
            )
            outs.append(_attended(rows, *heads, mask))
        assert self.mask is None or bit == len(self.mask)
        out, lse = (torch.cat(each) for each in zip(*outs, strict=True))
        return (out, lse) if return_lse else out


class BatchDecodeWithPagedKVCacheWrapper(BatchPrefillWithPagedKVCacheWrapper):
    def __init__(
        self,
        float_workspace_buffer: Tensor,
        kv_layout: str = "NHD",
        *,
        use_tensor_cores: bool = False,
    ) -> None:
        assert kv_layout == "HND"
        self.use_tensor_cores = use_tensor_cores

    def plan(  # type: ignore[override]
        self,
        indptr: Tensor,
        indices: Tensor,
        last_page_len: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        *,
        q_data_type: torch.dtype = torch.float16,
        kv_data_type: torch.dtype | None = None,
    ) -> None:
        group = num_qo_heads // num_kv_heads
        if not self.use_tensor_cores and group not in (1, 2, 3, 4, 8):
            raise RuntimeError(f"Unsupported group_size: {group}")
        rows = torch.arange(len(indptr), dtype=torch.int32)
        sizes = (num_qo_heads, num_kv_heads, head_dim, page_size)
        types = {"q_data_type": q_data_type, "kv_data_type": kv_data_type}
        super().plan(rows, indptr, indices, last_page_len, *sizes, **types)  # type: ignore[arg-type]


def _attended(q: Tensor, k: Tensor, v: Tensor, packed: Tensor | None) -> tuple[Tensor, Tensor]:
    """`q` `[rows, Hq, D]` against `k`, `v` `[Hkv, slots, D]`: out, and log-sum-exps base 2."""
    group = q.shape[1] // k.shape[0]
    key, value = (each.double().repeat_interleave(group, 0) for each in (k, v))
    scores = torch.einsum("rhd,hsd->rhs", q.double(), key) / math.sqrt(q.shape[-1])
    if packed is not None:
        rows, slots = q.shape[0], k.shape[1]
        bit = torch.arange(rows * slots)
        sees = packed[bit // 8] >> (bit % 8) & 1
        scores = scores.masked_fill(sees.view(rows, 1, slots) == 0, -math.inf)
    out = torch.einsum("rhs,hsd->rhd", scores.softmax(-1), value)
    return out.to(q.dtype), (scores.logsumexp(-1) / math.log(2)).float()


__version__ = "0.3.1"
quantization = SimpleNamespace(packbits=packbits)
