"""sgl-kernel's tree calls, for a decoder written for them: change one import.

    # from sgl_kernel import build_tree_kernel_efficient, verify_tree_greedy, ...
    from sparrow_kernels.integrations.sglang import build_tree_kernel_efficient, verify_tree_greedy

The arguments, their order and their encoding are sgl-kernel's; call them positionally, as releases
differ in how they spell the keywords. Everything is written in place into the caller's tensors,
which the caller prefills (-1, zeros, or True for a mask over the prefix); what a call does not name
as written stays as it was. B requests have N = `draft_token_num` nodes each, the root first; a
node's global index is `b * N + i`. Verification follows the links, whatever the order of a tree's
numbers. The tensors lie all on a CPU or all on one GPU, where no call waits for the device. A flat
tensor may be larger than what is written to it.

Where we differ: `tree_speculative_sampling_target_only` is exact also where siblings repeat a token
(it says how), 33 nodes or more are refused in a packed mask instead of wrapping around, and nothing
is read or written outside the buffers.

A chain of two drafted tokens, of which the target would have said the first:

>>> seq_len, parents, selected = torch.tensor([10]), torch.tensor([[-1, 0]]), torch.tensor([[0, 1]])
>>> mask, positions = torch.zeros(9, dtype=torch.bool), torch.zeros(3, dtype=torch.int64)
>>> index, child, sibling = torch.full((3, 1, 3), -1)
>>> build_tree_kernel_efficient(
...     parents, selected, seq_len, mask, positions, index, child, sibling, 1, 2, 3, 1)
>>> positions.tolist(), child.tolist()
([10, 11, 12], [[1, 2, -1]])
>>> predicts, accepted = torch.zeros(3, dtype=torch.int32), torch.full((1, 3), -1).int()
>>> count = torch.zeros(1, dtype=torch.int32)
>>> drafted, target = torch.tensor([[5, 6, 7]]), torch.tensor([[6, 8, 9]])
>>> verify_tree_greedy(predicts, accepted, count, drafted, index, child, sibling, target)
>>> accepted.tolist(), count.tolist(), predicts.tolist()
([[0, 1, -1]], [1], [6, 8, 0])
"""

from sparrow_kernels.integrations.sglang.packbits import segment_packbits
from sparrow_kernels.integrations.sglang.sampling import tree_speculative_sampling_target_only
from sparrow_kernels.integrations.sglang.tree import (
    build_tree_kernel_efficient,
    reconstruct_indices_from_tree_mask,
)
from sparrow_kernels.integrations.sglang.verify import verify_tree_greedy

__all__ = [
    "build_tree_kernel_efficient",
    "reconstruct_indices_from_tree_mask",
    "segment_packbits",
    "tree_speculative_sampling_target_only",
    "verify_tree_greedy",
]
