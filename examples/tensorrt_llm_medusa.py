"""For library authors: a Medusa step with TensorRT-LLM's static tree, masks and outputs.

The engine has its tree as paths, its mask in 32-bit words, and decides by comparing along every
path; `accept_tree` walks the tree once instead, and its result goes on as the engine's own outputs.
The engine here is a few lines of torch with those data formats.
"""

import math

import torch

import sparrow_kernels as sk
from sparrow_kernels.integrations import tensorrt_llm as trt

NODES, HEADS, HEAD_DIM, SLOTS, MAX_PATH = 8, 2, 16, 32, 4

# `medusa_paths`: to each leaf, from the root; node 0 is the last emitted token.
medusa_paths = torch.tensor(
    [[0, 1, 4, 7], [0, 1, 5, -1], [0, 2, 6, -1], [0, 3, -1, -1]], dtype=torch.int32
).repeat(2, 1, 1)
layout = trt.layout_of_paths(medusa_paths, NODES)
packed_mask, offsets = trt.packed_mask(layout), trt.position_offsets(layout)
print("packed mask:", packed_mask[0, :, 0].tolist())
print("position offsets:", offsets[0].tolist())


def engine_attention(query, key, value, past_lens):
    """One request and head at a time, reading the packed mask: what XQA does with it."""
    out = torch.zeros_like(query)
    for b, length in enumerate(past_lens.tolist()):
        for i in range(NODES):
            seen = [length + j for j in range(NODES) if packed_mask[b, i, j // 32] >> j % 32 & 1]
            slots = [*range(length), *seen]
            scores = torch.einsum("hd,hsd->hs", query[b, :, i], key[b, :, slots])
            weights = (scores / math.sqrt(HEAD_DIM)).softmax(-1)
            out[b, :, i] = torch.einsum("hs,hsd->hd", weights, value[b, :, slots])
    return out


def engine_accept(draft_ids, target_ids):
    """`acceptDraftTokensByIdsWithPaths`: emitted tokens and the best path of each request."""
    results = []
    for paths, draft, target in zip(medusa_paths, draft_ids, target_ids, strict=True):
        lengths = []
        for path in paths.tolist():
            steps = [node for node in path if node >= 0]
            agree = [draft[b - 1] == target[a] for a, b in zip(steps, steps[1:], strict=False)]
            lengths.append(1 + (agree + [False]).index(False))
        results.append((max(lengths), lengths.index(max(lengths))))
    return torch.tensor(results, dtype=torch.int32).unbind(1)


torch.manual_seed(0)
past_lens = torch.tensor([11, 6], dtype=torch.int32)
query = torch.randn(2, HEADS, NODES, HEAD_DIM)
key, value = torch.randn(2, 2, HEADS, SLOTS, HEAD_DIM)
ours = sk.tree_attention(query, key, value, trt.ancestors(packed_mask), past_lens)
theirs = engine_attention(query, key, value, past_lens)
print("the same attention:", torch.allclose(ours, theirs, atol=1e-5))

# The heads' tokens at nodes 1 to 7, and what the target says after each node.
draft_ids = torch.tensor([[21, 22, 23, 31, 32, 33, 41], [51, 52, 53, 61, 62, 63, 71]])
target_ids = torch.tensor([[21, 31, 0, 0, 41, 0, 0, 88], [52, 0, 99, 0, 0, 0, 0, 0]])
root = torch.tensor([[11], [12]])
accepted = sk.accept_tree(torch.cat((root, draft_ids), 1), layout, target_ids, MAX_PATH)
best_path_ids, accepted_lengths = trt.best_paths(accepted, medusa_paths)
lengths, best = engine_accept(draft_ids, target_ids)
print("accepted lengths:", accepted_lengths.tolist(), "best paths:", best_path_ids.tolist())
same = torch.equal(lengths, accepted_lengths) and torch.equal(best, best_path_ids)
print("as the engine decides:", same)

# The cache: the engine's list of rows to move, and our op, which moves them and the length.
cum_sum, paths_offsets = trt.packed_paths(accepted)
moved = key.clone()
for b in range(2):
    behind_root = int(past_lens[b]) + 1
    for place, draft in enumerate(paths_offsets[cum_sum[b] : cum_sum[b + 1]].tolist()):
        moved[b, :, behind_root + place] = key[b, :, behind_root + draft]
sk.commit_path_(accepted, [key], [value], [], past_lens)
print("committed slots:", past_lens.tolist())
equal = all(torch.equal(key[b, :, :n], moved[b, :, :n]) for b, n in enumerate(past_lens.tolist()))
print("the cache as the engine would move it:", equal)
