"""Growing a draft tree: the best nodes level by level, or draws from the draft.

The best tree of one distribution a depth is in `marginals.py`.

Nothing here waits for the device: every size follows from the `TreeConfig`.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from sparrow_kernels.decoding.coins import Coins
from sparrow_kernels.decoding.marginals import chain, grow_marginals, with_root
from sparrow_kernels.decoding.protocols import Draft, Tree
from sparrow_kernels.decoding.tree_config import TreeConfig
from sparrow_kernels.ops.tree import build_tree, select_tree


def grow_tree(
    draft: Draft,
    tree: TreeConfig,
    root_tokens: Tensor,
    root_hidden: Tensor,
    active: Tensor,
    temperature: float,
    coins: Coins,
    scored: bool = False,
) -> Tree:
    """Draft a tree below `root_tokens`.

    Args:
        draft: the draft, whose last committed row is the root.
        tree: the tree's shape.
        root_tokens: `[B]` int64, the last emitted token of each request.
        root_hidden: `[B, H]` the draft's output at the root row.
        active: `[B]` int32, 1 for a request that goes on, 0 for an idle one: its tree is padding.
        temperature: of the distribution a `branching` tree is drawn from; others ignore it.
        coins: what draws it.
        scored: whether the tree's `log_probs` are wanted, which decoding itself does not need.
    """
    if tree.marginals:
        return grow_marginals(draft, tree, root_tokens, root_hidden, active, scored)
    if tree.width == 1 and tree.branching is None:
        return _grow_chain(draft, tree, root_tokens, root_hidden, active, scored)
    if tree.branching is None:
        return _grow_best(draft, tree, root_tokens, root_hidden, active, scored)
    return _grow_drawn(draft, tree, root_tokens, root_hidden, active, temperature, coins, scored)


def _grow_best(
    draft: Draft,
    tree: TreeConfig,
    root_tokens: Tensor,
    root_hidden: Tensor,
    active: Tensor,
    scored: bool = False,
) -> Tree:
    """Top-`width` children of the root, then `depth - 1` times the `width` best of `width^2`
    children by cumulative log-probability; at the end the best `total - 1` of all that was grown.
    """
    batch, width = root_tokens.shape[0], tree.width
    device = root_tokens.device
    scores, tokens = draft.best(root_hidden, width)
    pool_scores, pool_tokens = [scores], [tokens]
    pool_parents = [scores.new_full((batch, width), -1, dtype=torch.int32)]
    own_bits = _own_bits(tree.grown_slots, device)
    level_pool = _counting(width, device).expand(batch, -1)  # pool number of each frontier node
    hidden = root_hidden[:, None].expand(-1, width, -1)
    ancestors = own_bits[:, :width].expand(batch, -1, -1)
    pool_size = width
    for level in range(1, tree.depth):
        first_slot = (level - 1) * width
        output = draft.grow(tokens, hidden, level, first_slot, ancestors)
        child_scores, child_tokens = draft.best(output, width)
        child_scores = (scores[:, :, None] + child_scores).flatten(1)
        child_tokens = child_tokens.flatten(1)
        pool_scores.append(child_scores)
        pool_tokens.append(child_tokens)
        pool_parents.append(level_pool.repeat_interleave(width, dim=1).int())
        if level + 1 < tree.depth:
            scores, kept = child_scores.topk(width, dim=1)
            tokens = child_tokens.gather(1, kept)
            parent_rank = (kept // width)[:, :, None]
            hidden = output.take_along_dim(parent_rank, dim=1)
            ancestors = ancestors.take_along_dim(parent_rank, dim=1)
            ancestors = ancestors | own_bits[:, first_slot + width : first_slot + 2 * width]
            level_pool = pool_size + kept
        pool_size += width * width
    pool = torch.cat(pool_scores, dim=1)
    selected, parents = select_tree(pool, torch.cat(pool_parents, dim=1), tree.total)
    drafted = torch.cat(pool_tokens, dim=1).gather(1, selected.long())
    layout = build_tree(parents, active * tree.total)
    log_probs = with_root(root_tokens, pool.gather(1, selected.long())) if scored else None
    return Tree(torch.cat([root_tokens[:, None], drafted], dim=1), layout, None, log_probs)


def _grow_chain(
    draft: Draft,
    tree: TreeConfig,
    root_tokens: Tensor,
    root_hidden: Tensor,
    active: Tensor,
    scored: bool = False,
) -> Tree:
    """The best child of the best child: what `_grow_best` comes to where a node has one child, and
    there is nothing to rank."""
    sees = chain(max(1, tree.grown_slots), root_hidden.device).expand(len(root_tokens), -1, -1)
    tokens, output = [root_tokens[:, None]], root_hidden[:, None]
    scores: list[Tensor] = []
    for level in range(1, tree.total):
        if level > 1:
            slot = level - 2
            output = draft.grow(tokens[-1], output, level - 1, slot, sees[:, slot : slot + 1])
        score, token = draft.best(output[:, 0], 1)
        tokens.append(token)
        scores.append(score)
    parents = (_counting(tree.total, active.device) - 1).int().expand(len(active), -1)
    layout = build_tree(parents.contiguous(), active * tree.total)
    log_probs = with_root(root_tokens, *scores).cumsum(dim=1) if scored else None
    return Tree(torch.cat(tokens, dim=1), layout, None, log_probs)


def _grow_drawn(
    draft: Draft,
    tree: TreeConfig,
    root_tokens: Tensor,
    root_hidden: Tensor,
    active: Tensor,
    temperature: float,
    coins: Coins,
    scored: bool = False,
) -> Tree:
    """A fixed number of children a node at each level, drawn without replacement, none dropped."""
    assert tree.branching is not None
    branching = tree.branching
    batch = root_tokens.shape[0]
    device = root_tokens.device
    parents, own_bits = _fixed_tree(branching, device)
    outputs = root_hidden[:, None]
    ancestors = own_bits.new_zeros((batch, 1, own_bits.shape[-1]))
    tokens, probs, first_slot = [root_tokens[:, None]], [], 0
    scores: list[Tensor] = []
    for level, children in enumerate(branching, start=1):
        level_probs = _with_full_support(draft.logits(outputs).float() / temperature)
        probs.append(level_probs)
        drawn = _draw_without_replacement(level_probs, children, coins).flatten(1)
        tokens.append(drawn)
        if scored:
            own = level_probs.gather(2, drawn.view(batch, -1, children)).log()
            scores.append((scores[-1][:, :, None] + own if scores else own).flatten(1))
        if level == len(branching):
            break
        count = drawn.shape[1]
        hidden = outputs.repeat_interleave(children, dim=1)
        ancestors = ancestors.repeat_interleave(children, dim=1)
        ancestors = ancestors | own_bits[:, first_slot : first_slot + count]
        outputs = draft.grow(drawn, hidden, level, first_slot, ancestors)
        first_slot += count
    # Leaves have no children, so their rows are never read; acceptance wants a row a node.
    leaves = probs[0].new_zeros((batch, tokens[-1].shape[1], probs[0].shape[-1]))
    layout = build_tree(parents.expand(batch, -1).contiguous(), active * tree.total)
    draft_probs = torch.cat([*probs, leaves], dim=1)
    log_probs = with_root(root_tokens, *scores) if scored else None
    return Tree(torch.cat(tokens, dim=1), layout, draft_probs, log_probs)


def _with_full_support(logits: Tensor) -> Tensor:
    """Softmax, mixed with one millionth of the uniform distribution over what may be drafted.

    At a low temperature float32 leaves one id with all the mass; a second child could then not be
    *drawn*, and acceptance is exact only for children that were.
    """
    allowed = logits != float("-inf")
    uniform = allowed.float() / allowed.sum(dim=-1, keepdim=True)
    probs = torch.softmax(logits, dim=-1)
    # A draft whose numbers are none drafts anything: that costs speed, and the text stays exact.
    return torch.where(probs.isnan(), uniform, probs * (1 - 1e-6) + uniform * 1e-6)


def _draw_without_replacement(probs: Tensor, count: int, coins: Coins) -> Tensor:
    """`count` draws a row in the order drawn: `[..., V]` -> `[..., count]` int64.

    The exponential race: the smallest of `Exponential(1) / prob` is a draw, the next smallest a
    draw from what is left, and so on. An id without mass never wins over one that has some.
    """
    return (probs / coins.exponential(probs)).topk(count, dim=-1).indices


@cache
def _counting(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, device=device)


@cache
def _own_bits(slots: int, device: torch.device) -> Tensor:
    """`[1, slots, W]` int64: row s has bit s alone."""
    words = max(1, (slots + 63) // 64)
    rows = torch.zeros(slots, words, dtype=torch.int64)
    for slot in range(slots):
        bit = slot % 64
        rows[slot, slot // 64] = 1 << bit if bit < 63 else -(1 << 63)
    return rows[None].to(device)


@cache
def _fixed_tree(branching: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Parents `[1, T]` int32 of a tree with fixed branching, and the bits of its inner nodes."""
    parents, level = [-1], [0]
    for children in branching:
        next_level = []
        for node in level:
            for _ in range(children):
                next_level.append(len(parents))
                parents.append(node)
        level = next_level
    inner = len(parents) - 1 - len(level)
    return torch.tensor([parents], dtype=torch.int32, device=device), _own_bits(inner, device)
