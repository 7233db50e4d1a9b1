"""For library authors: a tree verified in a decoder that keeps its data as FlashInfer wants it.

The decoder keeps pages in CSR form, one tensor of keys and values, and rows without padding. It
attends to the committed slots with its own kernel, whose log-sum-exps are base 2 (a few lines here,
so that this runs on a CPU); `tree_attention` does the tree, `merge_attention` puts the two
together, and `commit_tree_` moves the accepted rows across the pages.
"""

import math

import torch

import sparrow_kernels as sk
from sparrow_kernels.integrations import flashinfer as fi

PAGE_SIZE, HEADS, KV_HEADS, HEAD_DIM, NODES = 4, 4, 2, 16, 6


def prefix_attention(rows, cache, qo_indptr, indptr, indices, prefix_lens):
    """What `BatchPrefillWithPagedKVCacheWrapper.run(q, cache, return_lse=True)` gives for slots
    before `prefix_lens`: rows `[rows, H, D]` and base-2 log-sum-exps `[rows, H]`."""
    outs, lses = [], []
    for b, length in enumerate(prefix_lens.tolist()):
        pages = cache[indices[indptr[b] : indptr[b + 1]].long()]  # [pages, 2, page_size, Hkv, D]
        key, value = pages.transpose(0, 1).flatten(1, 2)[:, :length].repeat_interleave(2, 2)
        scores = torch.einsum("rhd,shd->rhs", rows[qo_indptr[b] : qo_indptr[b + 1]], key)
        scores = scores / math.sqrt(HEAD_DIM)
        outs.append(torch.einsum("rhs,shd->rhd", scores.softmax(-1), value))
        lses.append(scores.logsumexp(-1) / math.log(2))
    return torch.cat(outs), torch.cat(lses)


torch.manual_seed(0)
# Two requests: 9 and 5 committed slots, trees of six nodes and four, which the pages hold already.
prefix_lens = torch.tensor([9, 5], dtype=torch.int32)
paged_kv_indptr = torch.tensor([0, 4, 7], dtype=torch.int32)
paged_kv_indices = torch.tensor([7, 2, 9, 4, 0, 5, 8], dtype=torch.int32)
paged_kv_last_page_len = torch.tensor([3, 1], dtype=torch.int32)
cache = torch.randn(10, 2, PAGE_SIZE, KV_HEADS, HEAD_DIM)  # NHD
parent = torch.tensor([[-1, 0, 0, 1, 1, 3], [-1, 0, 0, 2, 0, 0]], dtype=torch.int32)
layout = sk.build_tree(parent, torch.tensor([6, 4], dtype=torch.int32))
qo_indptr = fi.qo_indptr(layout)
query = torch.randn(int(qo_indptr[-1]), HEADS, HEAD_DIM)

# Theirs over the prefix, ours over the tree, on the same pages.
block_table, kv_lens = fi.block_table(
    paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, PAGE_SIZE, max_pages=4
)
out, lse = prefix_attention(query, cache, qo_indptr, paged_kv_indptr, paged_kv_indices, prefix_lens)
pages = fi.caches(cache, "NHD")
own = sk.tree_attention(
    fi.batched_rows(query, qo_indptr, NODES), *pages, layout.ancestors, prefix_lens,
    prefix_starts=prefix_lens, block_table=block_table, return_lse=True,
)  # fmt: skip
theirs = fi.batched_rows(out, qo_indptr, NODES), fi.natural_lse(lse, qo_indptr, NODES)
merged, _ = sk.merge_attention((theirs[0], own[0]), (theirs[1], own[1]))
merged = fi.ragged_rows(merged, qo_indptr, len(query))

# What one call with FlashInfer's mask over the whole context would say.
mask, _ = fi.custom_mask(layout, prefix_lens)
expected, place = [], 0
for b, length in enumerate(kv_lens.tolist()):
    rows = query[qo_indptr[b] : qo_indptr[b + 1]]
    sees = mask[place : place + len(rows) * length].view(len(rows), 1, length)
    place += sees.numel()
    held = cache[paged_kv_indices[paged_kv_indptr[b] : paged_kv_indptr[b + 1]].long()]
    key, value = held.transpose(0, 1).flatten(1, 2)[:, :length].repeat_interleave(2, 2)
    scores = torch.einsum("rhd,shd->rhs", rows, key) / math.sqrt(HEAD_DIM)
    weights = scores.masked_fill(~sees, -math.inf).softmax(-1)
    expected.append(torch.einsum("rhs,shd->rhd", weights, value))
print("the two parts as one call:", torch.allclose(merged, torch.cat(expected), atol=1e-5))

# The target follows nodes 1, 3, 5 and 2: their rows move behind the prefix, page by page.
key_before = torch.cat([cache[page, 0] for page in (7, 2, 9, 4)])
tokens = torch.arange(NODES).repeat(2, 1)
targets = torch.tensor([[1, 3, 0, 5, 0, 77], [2, 0, 99, 0, 0, 0]])
accepted, _ = sk.commit_tree_(
    tokens, layout, targets, [pages[0]], [pages[1]], [], prefix_lens, 4, block_table=block_table
)
moved = torch.cat([cache[page, 0] for page in (7, 2, 9, 4)])[9:13]
print("emitted:", accepted.tokens.tolist())
print("rows moved:", torch.equal(moved, key_before[[9, 10, 12, 14]]))

# FlashInfer's table of what is committed now, for its next `plan`.
indptr, indices, last = fi.paged_kv(block_table, prefix_lens, PAGE_SIZE)
print("committed pages:", indices[: int(indptr[-1])].tolist(), "last:", last.tolist())
