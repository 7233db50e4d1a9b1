"""FlashInfer's data for our ops, and ours for its wrappers. Needs no FlashInfer.

Its encodings, as its tutorial documents them (docs.flashinfer.ai, "KV-Cache Layout in FlashInfer")
and as the sources of releases 0.3.1 and 0.6.18 have them:

- rows of a batch one behind the other, `[rows, heads, ...]`, beside `qo_indptr` `[B + 1]` int32;
- a page table in CSR form: `paged_kv_indptr` `[B + 1]`, `paged_kv_indices`, and
  `paged_kv_last_page_len` `[B]`, int32, which count the step's own slots, its tree's, as well;
- caches `[pages, 2, page_size, Hkv, D]` (NHD) or `[pages, 2, Hkv, page_size, D]` (HND), or key and
  value apart without the 2;
- a mask of `q_len * kv_len` elements a request, row by row, over committed slots and tree alike;
  packed, its bits lie from the lowest up, and each request begins a byte of its own;
- a log-sum-exp to base 2, float32 `[rows, heads]`.

Two requests with three and two committed slots, and trees of two nodes and one:

>>> layout = build_tree(torch.tensor([[-1, 0], [-1, 0]]).int(), torch.tensor([2, 1]).int())
>>> packed, indptr = packed_custom_mask(layout, torch.tensor([3, 2]).int())
>>> [f"{byte:08b}" for byte in packed.tolist()], indptr.tolist()
(['11101111', '00000011', '00000111'], [0, 2, 3])
"""

from sparrow_kernels.integrations.flashinfer.masks import (
    ancestors,
    custom_mask,
    packed_custom_mask,
    qo_indptr,
)
from sparrow_kernels.integrations.flashinfer.pages import block_table, caches, paged_kv
from sparrow_kernels.integrations.flashinfer.rows import (
    base2_lse,
    batched_rows,
    natural_lse,
    ragged_rows,
)

__all__ = [
    "ancestors",
    "base2_lse",
    "batched_rows",
    "block_table",
    "caches",
    "custom_mask",
    "natural_lse",
    "packed_custom_mask",
    "paged_kv",
    "qo_indptr",
    "ragged_rows",
]
