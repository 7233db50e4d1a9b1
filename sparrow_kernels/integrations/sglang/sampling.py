"""Sampled verification in sgl-kernel's encoding: one coin a node decides between its children.

At a node with target row t, its children are tried in the order of their links against one coin u.
`sum` adds up the target probability of the tokens tried so far, each token once. A child with token
x is accepted iff `t[x] > 0` and `u <= sum / threshold_acc`, or `t[x] >= threshold_single`. From the
accepted child on, its own coin and row count. Where all are refused, the bonus is drawn from
`max(t - draft, 0)`, in which refused tokens have lost all their mass; where the path is full, from
t.

With both thresholds 1 this is exact, whatever tree was drafted: the k-th new token is accepted iff
u lies in (sum_{k-1}, sum_k], which has probability t[x_k]; all are refused with probability
1 - sum, and then y is drawn with probability t[y] / (1 - sum).

sgl-kernel adds the mass of a token once for each sibling that holds it. Siblings x, x then make x
the outcome with probability min(1, 2 t[x]) instead of t[x]. Ours refuses the second x without a
look. sgl-kernel also accepts a token without mass on a coin of exactly 0, which ours does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels import sample_tokens
from sparrow_kernels.integrations.arguments import check, refuse
from sparrow_kernels.integrations.sglang.buffers import flat, write
from sparrow_kernels.integrations.sglang.numbering import Tree
from sparrow_kernels.integrations.sglang.verify import Results

# sgl-kernel's own bound, so that a threshold of 0 divides nothing by zero.
LEAST_THRESHOLD = 1e-9


def tree_speculative_sampling_target_only(
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
    draft_tokens: Tensor,
    retrieve_index: Tensor,
    retrieve_next_token: Tensor,
    retrieve_next_sibling: Tensor,
    uniform_samples: Tensor,
    uniform_samples_for_final_sampling: Tensor,
    target_probs: Tensor,
    draft_probs: Tensor,
    threshold_single: float = 1.0,
    threshold_acc: float = 1.0,
    deterministic: bool = True,
) -> None:
    """Accept drafted tokens by the target's probabilities alone, and draw the bonus.

    At a node, its children are tried in the order of their links; one is accepted iff the node's
    coin is at most the target probability of the distinct tokens tried so far / `threshold_acc`, or
    its own target probability is at least `threshold_single`. With thresholds of 1 what is emitted
    has exactly the target's distribution, however the tree was drafted. There we differ from
    sgl-kernel: it counts a token that two siblings hold twice, and so is biased towards it. Lower
    thresholds accept more than the target would, as in sgl-kernel. Sums are float64.

    Args:
        predicts, accept_index, accept_token_num: written, as by `verify_tree_greedy`.
        draft_tokens: `[B, N]` int64.
        retrieve_index, retrieve_next_token, retrieve_next_sibling: `[B, N]` int32 or int64, from
            `build_tree_kernel_efficient`, or other links of trees, -1 where there is none.
        uniform_samples: `[B, N]` float32 in [0, 1]; a node's coin decides between its children.
        uniform_samples_for_final_sampling: `[B]` float32 in [0, 1], the coin that draws the bonus.
        target_probs: `[B, N, V]` float32, row i is what comes after node i.
        draft_probs: `[B, N, V]` float32, zeros from the caller; written: a refused token gets its
            target probability, in the row of the node after which it was refused. Anything else in
            it is subtracted from the residual, as sgl-kernel does, which is then not the target's.
        threshold_single: in [0, 1]; a token at least as probable is accepted whatever the coin.
        threshold_acc: in [0, 1]; divides the running sum.
        deterministic: for the signature; we always are.

    Raises:
        ValueError: wrong shape or threshold; on a CPU also links out of the tree, cycles of links
            and a second link to a node (else: all of these end the walk), and a last row that
            cannot be sampled from (else: -1 in `predicts`).
        TypeError: wrong dtype or device.
    """
    op, device = "tree_speculative_sampling_target_only", draft_tokens.device
    tree = Tree(draft_tokens, retrieve_index, retrieve_next_token, retrieve_next_sibling)
    results = Results(predicts, accept_index, accept_token_num)
    tree.check(op)
    batch, nodes = draft_tokens.shape
    results.check(op, batch, nodes, device)
    final = uniform_samples_for_final_sampling
    check(op, "uniform_samples", uniform_samples, [batch, nodes], torch.float32, device)
    check(op, "uniform_samples_for_final_sampling", final, [batch], torch.float32, device)
    check(op, "target_probs", target_probs, [batch, nodes, -1], torch.float32, device)
    check(op, "draft_probs", draft_probs, target_probs.shape, torch.float32, device)
    flat_draft = flat(op, "draft_probs", draft_probs, draft_probs.numel(), torch.float32, device)
    for name, threshold in (("single", threshold_single), ("acc", threshold_acc)):
        if not 0 <= threshold <= 1:
            refuse(op, f"threshold_{name}", "in [0, 1]", threshold)

    # From here on a node is its number in ours; `row` is the caller's, by which its rows lie.
    ours = tree.numbered().without_shared()
    parent, tokens, row = ours.parents(), ours.tokens, ours.order
    vocabulary = target_probs.shape[2]
    can_be_drawn = (parent >= 0) & (tokens >= 0) & (tokens < vocabulary)
    above, token = parent.clamp(min=0), tokens.clamp(0, vocabulary - 1)
    request, row_above = torch.arange(batch, device=device), row.gather(1, above)
    mass = target_probs[request[:, None], row_above, token]
    decides = _Children(parent, tokens, can_be_drawn, mass)
    coin = uniform_samples.gather(1, row_above)
    is_accepted = decides.accepted(coin, threshold_single, threshold_acc)
    choice = decides.lowest(is_accepted)

    # Nodes stand for their tokens: the walk then goes where we chose, and no further than S nodes.
    number = torch.arange(nodes, device=device).expand(batch, nodes)
    walked = ours.walk(op, number, choice, accept_index.shape[1])
    path, length = walked.path.long(), walked.accept_length.long()
    is_refused = can_be_drawn & _is_on(path[:, :-1], parent)
    is_refused &= (choice.gather(1, above) < 0) | (number < choice.gather(1, above))
    place = (request[:, None] * nodes + row_above) * vocabulary + token
    write(flat_draft, place, mass, is_refused)

    last = row.gather(1, path.gather(1, length[:, None]))[:, 0]
    whole = target_probs[request, last]
    residual = (whole - draft_probs[request, last]).clamp(min=0)
    # Where rounding left nothing of a node whose children hold all its mass, its row decides.
    is_whole = (length[:, None] == path.shape[1] - 1) | ~(residual.amax(-1, keepdim=True) > 0)
    bonus = sample_tokens(torch.where(is_whole, whole, residual), final)
    following = torch.nn.functional.pad(path[:, 1:], (0, 1), value=-1)
    emitted = torch.where(following >= 0, tokens.gather(1, following.clamp(min=0)), bonus[:, None])
    results.write(path, length, emitted, ours.indices)


class _Children:
    """Every node as a child: which siblings were tried before it, and what they hold together."""

    def __init__(self, parent: Tensor, tokens: Tensor, can_be_drawn: Tensor, mass: Tensor) -> None:
        self._parent = parent
        number = torch.arange(parent.shape[1], device=parent.device)
        is_sibling = (parent[:, :, None] == parent[:, None, :]) & (parent >= 0)[:, :, None]
        tried_before = is_sibling & (number < number[:, None])
        has_same_token = tokens[:, :, None] == tokens[:, None, :]
        self._is_new = can_be_drawn & ~(tried_before & has_same_token).any(-1)
        self._mass = torch.where(self._is_new, mass, 0).double()
        earlier = torch.where(tried_before, self._mass[:, None, :], 0).sum(-1)
        self._running = earlier + self._mass

    def accepted(self, coin: Tensor, threshold_single: float, threshold_acc: float) -> Tensor:
        """`[B, N]`: whether the node is accepted once its parent and its turn are reached."""
        share = self._running / max(threshold_acc, LEAST_THRESHOLD)
        by_coin = (coin <= share) & (self._mass > 0)
        # In float32, as the threshold is there: the double 0.7 is more than the float 0.7.
        return self._is_new & (by_coin | (self._mass.float() >= threshold_single))

    def lowest(self, is_accepted: Tensor) -> Tensor:
        """`[B, N]`: the lowest accepted child of each node, -1 none."""
        batch, nodes = is_accepted.shape
        number = torch.arange(nodes, device=is_accepted.device)
        # One column more, for nodes that have no parent.
        lowest = number.new_full((batch, nodes + 1), nodes)
        home = torch.where(self._parent >= 0, self._parent, nodes)
        lowest.scatter_reduce_(1, home, torch.where(is_accepted, number, nodes), "amin")
        return torch.where(lowest < nodes, lowest, -1)[:, :nodes]


def _is_on(path: Tensor, parent: Tensor) -> Tensor:
    """`[B, N]`: whether a node's parent is one of `path`, which is padded with -1."""
    batch, nodes = parent.shape
    is_walked = torch.zeros((batch, nodes + 1), dtype=torch.bool, device=parent.device)
    is_walked.scatter_(1, torch.where(path >= 0, path, nodes), True)
    return is_walked.gather(1, parent.clamp(min=0)) & (parent >= 0)
