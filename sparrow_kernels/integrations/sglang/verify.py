"""Greedy verification in sgl-kernel's encoding, and how every verification writes its results."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparrow_kernels.integrations.arguments import INTEGERS, check, refuse
from sparrow_kernels.integrations.sglang.buffers import flat, write
from sparrow_kernels.integrations.sglang.numbering import Tree


class Results(NamedTuple):
    """The tensors a verification fills in place; S = the second size of `accept_index`."""

    predicts: Tensor
    """`[B * N]` or more, int32: the token emitted *at* each accepted node, by global index."""
    accept_index: Tensor
    """`[B, S]` int32 global indices of the accepted nodes, the root first."""
    accept_token_num: Tensor
    """`[B]` int32 accepted draft tokens, without root and bonus."""

    def check(self, op: str, batch: int, nodes: int, device: torch.device) -> None:
        flat(op, "predicts", self.predicts, batch * nodes, INTEGERS, device)
        check(op, "accept_index", self.accept_index, [batch, -1], INTEGERS, device)
        if self.accept_index.shape[1] < 1:
            refuse(op, "accept_index", "[B, S] with S >= 1 (the root)", [batch, 0])
        check(op, "accept_token_num", self.accept_token_num, [batch], INTEGERS, device)

    def write(self, path: Tensor, accept_length: Tensor, emitted: Tensor, global_: Tensor) -> None:
        """`path` and `emitted` `[B, S]`, -1 past the end; `global_` `[B, N]` index of each node."""
        is_accepted = path >= 0
        index = global_.long().gather(1, path.long().clamp(min=0))
        write(self.predicts.view(-1), index, emitted, is_accepted)
        self.accept_index.copy_(torch.where(is_accepted, index, self.accept_index))
        self.accept_token_num.copy_(accept_length)


def verify_tree_greedy(
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
    draft_tokens: Tensor,
    retrieve_index: Tensor,
    retrieve_next_token: Tensor,
    retrieve_next_sibling: Tensor,
    target_predict: Tensor,
) -> None:
    """Walk each tree along the target's argmax, as sgl-kernel does.

    From the root, go to the first child, in the order of its links, whose token is the target's;
    how the nodes are numbered does not matter.

    Args:
        predicts: `[B * N]` or more, int32, written at accepted nodes: the token emitted there (the
            accepted child's, at the last node the bonus).
        accept_index: `[B, S]` int32, written: global index of the root, then of the accepted nodes;
            the rest stays as prefilled. No path has more than S nodes.
        accept_token_num: `[B]` int32, written: accepted draft tokens, without root and bonus.
        draft_tokens: `[B, N]` int64.
        retrieve_index, retrieve_next_token, retrieve_next_sibling: `[B, N]` int32 or int64, from
            `build_tree_kernel_efficient`, or other links without a cycle, -1 where there is none.
        target_predict: `[B, N]` int64, the target's token after each node.

    Raises:
        ValueError: wrong shape; on a CPU also links out of the tree (else: they end the walk) and
            cycles of links (else: no path has more than S nodes).
        TypeError: wrong dtype or device.
    """
    op, device = "verify_tree_greedy", draft_tokens.device
    tree = Tree(draft_tokens, retrieve_index, retrieve_next_token, retrieve_next_sibling)
    results = Results(predicts, accept_index, accept_token_num)
    tree.check(op)
    batch, nodes = draft_tokens.shape
    results.check(op, batch, nodes, device)
    check(op, "target_predict", target_predict, draft_tokens.shape, torch.int64, device)
    ours = tree.numbered()
    target = target_predict.gather(1, ours.order)
    accepted = ours.walk(op, ours.tokens, target, accept_index.shape[1])
    results.write(accepted.path, accepted.accept_length, accepted.tokens, ours.indices)
