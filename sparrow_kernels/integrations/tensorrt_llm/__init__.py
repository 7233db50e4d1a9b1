"""TensorRT-LLM's trees and accepted paths for our ops, and ours for it. Needs no TensorRT-LLM.

Its encodings, as its sources document them (`spec_tree_manager.py`, `medusa_utils.py`, and under
`kernels/speculativeDecoding` `common.cu`, `kvCacheUpdateKernels.cu` and `dynamicTreeKernels.h`):

- nodes are numbered in their own tree, the root is 0; draft token k of a step is node k + 1;
- `spec_decoding_packed_mask` `[B, N, ceil(N / 32)]` int32: bit j % 32 of word j // 32 of a row is
  whether its node sees node j; `spec_decoding_position_offsets` `[B, N]` int32, the depth;
  `spec_decoding_generation_lengths` `[B]` int32, nodes with the root;
- `paths` `[B, paths, max_path]` int32 (Medusa's and EAGLE's static trees): a row is a path of node
  numbers from the root down, -1 behind its end; a row of -1 is none;
- of a step by paths: `accepted_lengths` `[B]` int32 counts the emitted tokens, the bonus included,
  `best_path_ids` `[B]` names the row; of a step by links (`verify_dynamic_tree_greedy`):
  `accept_token_num` `[B]` int64 counts draft tokens alone, `accept_index` `[B, S]` begins with the
  root, `accept_token` `[B, S]` ends with the bonus, and what lies behind is whatever was there.

A root with two children, of which the second has a child:

>>> layout = build_tree(torch.tensor([[-1, 0, 0, 2]]).int())
>>> packed_mask(layout).tolist(), position_offsets(layout).tolist()
([[[1], [3], [5], [13]]], [[0, 1, 1, 2]])
>>> paths(layout, 3).tolist()
[[[0, -1, -1], [0, 1, -1], [0, 2, -1], [0, 2, 3]]]
"""

from sparrow_kernels.integrations.tensorrt_llm.accepted import (
    accept_outputs,
    acceptance_by_links,
    acceptance_by_paths,
    best_paths,
    packed_paths,
)
from sparrow_kernels.integrations.tensorrt_llm.trees import (
    ancestors,
    generation_lengths,
    layout_of_paths,
    packed_mask,
    paths,
    position_offsets,
)

__all__ = [
    "accept_outputs",
    "acceptance_by_links",
    "acceptance_by_paths",
    "ancestors",
    "best_paths",
    "generation_lengths",
    "layout_of_paths",
    "packed_mask",
    "packed_paths",
    "paths",
    "position_offsets",
]
