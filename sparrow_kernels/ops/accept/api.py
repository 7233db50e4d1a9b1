"""The public walk along the target's own tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.ops.accept.arguments import check_drafted, check_row
from sparrow_kernels.ops.accept.ops import ACCEPT_TREE
from sparrow_kernels.ops.errors import Size
from sparrow_kernels.ops.types import Acceptance, TreeLayout


def accept_tree(
    tokens: Tensor, layout: TreeLayout, target_tokens: Tensor, max_path: int
) -> Acceptance:
    """Walk each tree along the target's own tokens.

    From the root, go to the lowest-numbered child whose token equals `target_tokens[node]`; where
    no child has it, or the path holds `max_path` nodes, that token is the bonus. With the argmax
    of each node as target tokens this is greedy decoding. With one exact sample per node it is
    lossless sampling, for any tree, however it was drafted, duplicates included.

    Args:
        tokens: `[B, T]` int64 drafted token of each node; the root's and padding are not read.
        layout: `TreeLayout` of B trees with T nodes.
        target_tokens: `[B, T]` int64 the target's token after each node.
        max_path: S >= 1, the most nodes a path may have, the root included.

    Returns:
        `Acceptance`; an idle request has accept_length -1 and -1 everywhere.

    Raises:
        ValueError: wrong shape or `max_path`; with value checks on also links out of the tree
            (else: they end the walk).
        TypeError: wrong dtype or device.

    Source: Miao et al., SpecInfer, arXiv 2305.09781, algorithm 2 (greedy verification).

    Equivalent to:

    >>> layout = build_tree(torch.tensor([[-1, 0, 0, 2, 2]], dtype=torch.int32))
    >>> tokens = torch.tensor([[9, 4, 7, 4, 5]])
    >>> target_tokens = torch.tensor([[7, 0, 5, 0, 3]])
    >>> path, emitted = [0], []
    >>> while True:
    ...     emitted.append(target_tokens[0, path[-1]].item())
    ...     agreeing = [c for c in range(1, 5)
    ...                 if layout.parent[0, c] == path[-1] and tokens[0, c] == emitted[-1]]
    ...     if not agreeing:
    ...         break
    ...     path.append(agreeing[0])
    >>> accepted = accept_tree(tokens, layout, target_tokens, max_path=3)
    >>> accepted.path[0].tolist() == path, accepted.tokens[0].tolist() == emitted
    (True, True)
    >>> accepted.accept_length.item() == len(path) - 1
    True
    """
    sizes: dict[str, Size] = {}
    links = check_drafted("accept_tree", tokens, layout, max_path, sizes)
    check_row(
        "accept_tree", "target_tokens", target_tokens, "B T", torch.int64, sizes, tokens.device
    )
    return Acceptance(*ACCEPT_TREE(tokens, *links, target_tokens, max_path))
