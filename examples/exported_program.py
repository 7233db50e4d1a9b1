"""For library authors: a program with the ops in it, through `torch.export`, saved and loaded.

Who loads it imports sparrow_kernels first: the file names the ops, and the package has them.
"""

import tempfile
from pathlib import Path

import torch

import sparrow_kernels as sk


class Verify(torch.nn.Module):
    """Attention of a tree to a cache, and the likeliest tokens after each of its nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(4 * 8, 50)

    def forward(self, query, key_cache, value_cache, parent, prefix_lens):
        layout = sk.build_tree(parent)
        out = sk.tree_attention(query, key_cache, value_cache, layout.ancestors, prefix_lens)
        logits = self.head(out.transpose(1, 2).flatten(2))
        return sk.topk_logprobs(logits.flatten(0, 1), 3)


def example(nodes: int, slots: int) -> tuple[torch.Tensor, ...]:
    parent = torch.arange(-1, nodes - 1, dtype=torch.int32).expand(2, nodes).contiguous()
    caches = torch.randn(2, 2, 2, slots, 8)
    lengths = torch.tensor([3, slots - nodes], dtype=torch.int32)
    return torch.randn(2, 4, nodes, 8), *caches, parent, lengths


torch.manual_seed(0)
model = Verify().eval().requires_grad_(False)
nodes, slots = torch.export.Dim("nodes", min=2, max=64), torch.export.Dim("slots", min=8)
shapes = ({2: nodes}, {2: slots}, {2: slots}, {1: nodes}, None)
program = torch.export.export(model, example(5, 16), dynamic_shapes=shapes)

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "verify.pt2"
    torch.export.save(program, path)
    loaded = torch.export.load(path).module()

named = {str(node.target) for node in program.graph.nodes if "sparrow" in str(node.target)}
print("ops in the graph:", ", ".join(sorted(named)))
for sizes in ((5, 16), (9, 40)):
    inputs = example(*sizes)
    (values, ids), (expected, expected_ids) = loaded(*inputs), model(*inputs)
    same = torch.equal(ids, expected_ids) and torch.allclose(values, expected)
    print(f"{sizes[0]} nodes, {sizes[1]} slots: the same result: {same}")
