"""For library authors: the ops of one speculative step, without any model.

Two requests with different trees, as some decoder drafted them; the target's argmax after each
node decides. Accepted rows of the cache move behind the committed prefix in one call.
"""

import torch

import sparrow_kernels as sk

parents = torch.tensor([[-1, 0, 0, 1, 1, 2], [-1, 0, 1, 2, 0, 0]], dtype=torch.int32)
num_nodes = torch.tensor([6, 4], dtype=torch.int32)  # the second request drafted a chain of four
layout = sk.build_tree(parents, num_nodes)

tokens = torch.tensor([[11, 21, 22, 31, 32, 33], [12, 41, 42, 43, 0, 0]])
target_tokens = torch.tensor([[21, 32, 0, 0, 77, 0], [41, 42, 99, 0, 0, 0]])

layers, heads, slots, head_dim, hidden_size = 4, 2, 32, 8, 16
keys = [torch.randn(2, heads, slots, head_dim) for _ in range(layers)]
values = [torch.randn(2, heads, slots, head_dim) for _ in range(layers)]
states = [torch.randn(2, 6, hidden_size)]
prefix_lens = torch.tensor([10, 20], dtype=torch.int32)

query = torch.randn(2, 4, 6, head_dim)
out = sk.tree_attention(query, keys[0], values[0], layout.ancestors, prefix_lens)
acceptance, path_hidden = sk.commit_tree_(
    tokens, layout, target_tokens, keys, values, states, prefix_lens, max_path=4
)
print("attended:", tuple(out.shape))
print("paths:", acceptance.path.tolist())
print("emitted:", acceptance.tokens.tolist())
print("committed slots:", prefix_lens.tolist(), "states:", tuple(path_hidden.shape))
