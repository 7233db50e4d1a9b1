"""For library authors: a verification step under `torch.compile(fullgraph=True)`.

Ops are nodes of the graph, those in place too: no cache is copied. Lengths live in tensors, so a
longer prefix does not recompile; the backend is chosen when an op runs, not when it is traced.
"""

import torch

import sparrow_kernels as sk

LAYERS, HEADS, KV_HEADS, SLOTS, HEAD_DIM, VOCABULARY = 2, 4, 2, 32, 8, 50


def step(tokens, layout, caches, prefix_lens, embedding, weights):
    """One pass over the tree, attention alone, then acceptance and commit."""
    keys, values = caches
    hidden = embedding[tokens]
    for layer, weight in enumerate(weights):
        rows = (hidden @ weight).unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2)
        query, key, value = rows.split((HEADS, KV_HEADS, KV_HEADS), dim=1)
        sk.append_cache_(key, value, keys[layer], values[layer], prefix_lens)
        out = sk.tree_attention(query, keys[layer], values[layer], layout.ancestors, prefix_lens)
        hidden = hidden + out.transpose(1, 2).flatten(2)
    target_tokens = (hidden @ embedding.T).argmax(-1)
    return sk.commit_tree_(
        tokens, layout, target_tokens, keys, values, [hidden], prefix_lens, max_path=3
    )


torch.manual_seed(0)
size = HEADS * HEAD_DIM
embedding = torch.randn(VOCABULARY, size)
weights = [torch.randn(size, size + 2 * KV_HEADS * HEAD_DIM) / size**0.5 for _ in range(LAYERS)]
layout = sk.build_tree(torch.tensor([[-1, 0, 0, 1], [-1, 0, 1, 2]], dtype=torch.int32))
compiled = torch.compile(step, fullgraph=True, backend="aot_eager")  # "inductor" takes longer


def run(function):
    """Three steps, each from where the last one left the caches."""
    generator = torch.Generator().manual_seed(1)
    slabs = torch.randn(2, LAYERS, 2, KV_HEADS, SLOTS, HEAD_DIM, generator=generator)
    caches, prefix_lens = [list(slab) for slab in slabs], torch.tensor([3, 7], dtype=torch.int32)
    emitted = []
    for _ in range(3):
        tokens = torch.randint(VOCABULARY, (2, 4), generator=generator)
        accepted, _ = function(tokens, layout, caches, prefix_lens, embedding, weights)
        emitted.append(accepted.tokens.tolist())
    return emitted, prefix_lens.tolist(), slabs


with torch.no_grad():
    expected, got = run(step), run(compiled)
print("the same tokens:", got[0] == expected[0], "and lengths:", got[1] == expected[1])
print("the same caches:", torch.equal(got[2], expected[2]))
frames = torch._dynamo.utils.counters["stats"]["unique_graphs"]
print(f"{frames} graph for {len(got[0])} steps")
