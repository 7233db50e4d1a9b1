"""Greedy verification in sgl-kernel's encoding, and what it shares with sampling."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparrow_kernels import TreeLayout, accept_tree
from sparrow_kernels.integrations.sglang.buffers import INTEGERS, check, flat, write


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
        check(op, "accept_token_num", self.accept_token_num, [batch], INTEGERS, device)

    def write(self, path: Tensor, accept_length: Tensor, emitted: Tensor, global_: Tensor) -> None:
        """`path` and `emitted` `[B, S]`, -1 past the end; `global_` `[B, N]` index of each node."""
        is_accepted = path >= 0
        index = global_.long().gather(1, path.long().clamp(min=0))
        write(self.predicts.view(-1), index, emitted, is_accepted)
        self.accept_index.copy_(torch.where(is_accepted, index, self.accept_index))
        self.accept_token_num.copy_(accept_length)


class Tree(NamedTuple):
    """A batch of drafted trees as sgl-kernel hands them over; all `[B, N]`."""

    tokens: Tensor
    indices: Tensor
    next_token: Tensor
    next_sibling: Tensor

    def check(self, op: str) -> None:
        shape, device = self.tokens.shape, self.tokens.device
        check(op, "draft_tokens", self.tokens, [-1, -1], torch.int64, device)
        check(op, "retrieve_index", self.indices, shape, INTEGERS, device)
        check(op, "retrieve_next_token", self.next_token, shape, INTEGERS, device)
        check(op, "retrieve_next_sibling", self.next_sibling, shape, INTEGERS, device)

    def layout(self) -> TreeLayout:
        """The links as a layout, for `accept_tree`: it follows links and reads nothing else but the
        depth of the root, so the other fields, which would cost launches, stay blank."""
        blank = torch.zeros_like(self.tokens, dtype=torch.int32)
        words = blank.new_zeros((*blank.shape, (blank.shape[1] + 63) // 64), dtype=torch.int64)
        links = (self.next_token.int().contiguous(), self.next_sibling.int().contiguous())
        return TreeLayout(blank, blank, words, *links, blank[:, 0])


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

    Args:
        predicts: `[B * N]` or more, int32, written at accepted nodes: the token emitted there (the
            accepted child's, at the last node the bonus).
        accept_index: `[B, S]` int32, written: global index of the root, then of the accepted nodes;
            the rest stays as prefilled. No path has more than S nodes.
        accept_token_num: `[B]` int32, written: accepted draft tokens, without root and bonus.
        draft_tokens: `[B, N]` int64.
        retrieve_index, retrieve_next_token, retrieve_next_sibling: `[B, N]` int32 or int64, from
            `build_tree_kernel_efficient`.
        target_predict: `[B, N]` int64, the target's token after each node.

    Raises:
        ValueError: wrong shape; on a CPU also links out of the tree (else: they end the walk).
        TypeError: wrong dtype or device.
    """
    op, device = "verify_tree_greedy", draft_tokens.device
    tree = Tree(draft_tokens, retrieve_index, retrieve_next_token, retrieve_next_sibling)
    results = Results(predicts, accept_index, accept_token_num)
    tree.check(op)
    batch, nodes = draft_tokens.shape
    results.check(op, batch, nodes, device)
    check(op, "target_predict", target_predict, draft_tokens.shape, torch.int64, device)
    accepted = accept_tree(draft_tokens, tree.layout(), target_predict, accept_index.shape[1])
    results.write(accepted.path, accepted.accept_length, accepted.tokens, retrieve_index)
