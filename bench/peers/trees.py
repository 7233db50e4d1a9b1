"""Trees and their acceptance by tensor operations, and by SGLang's kernels."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from bench.case import Arguments, Call, TorchWay, Way
from sparrow_kernels import pack_ancestors, unpack_ancestors
from sparrow_kernels.ops.types import Acceptance, TreeLayout


def build_tree() -> list[Way]:
    return list(TorchWay(_build_tree).ways())


def _build_tree(arguments: Arguments) -> TreeLayout:
    """Reachability by repeated squaring: log2(T) products of T x T matrices, no loop over nodes.

    Takes a well-formed tree of all its nodes; checks nothing.
    """
    parent = arguments["parent"]
    batch, size = parent.shape
    device = parent.device
    node = torch.arange(size, device=device)
    is_parent = (parent.unsqueeze(2) == node).float()
    reach = is_parent + torch.eye(size, device=device)
    for _ in range((size - 1).bit_length()):
        reach = (reach @ reach).clamp(max=1)
    depth = reach.sum(-1).int() - 1
    width = -(-size // 64)
    bits = torch.zeros(batch, size, 64 * width, dtype=torch.int64, device=device)
    bits[:, :, :size] = reach.long()
    weight = torch.ones(64, dtype=torch.int64, device=device) << torch.arange(64, device=device)
    ancestors = (bits.view(batch, size, width, 64) * weight).sum(-1)
    children = is_parent.transpose(1, 2)  # [B, parent, child]
    first_child = torch.where(children.any(-1), children.argmax(-1), -1).int()
    is_later = node > node.unsqueeze(1)
    siblings = (parent.unsqueeze(2) == parent.unsqueeze(1)) & is_later
    next_sibling = torch.where(siblings.any(-1), siblings.int().argmax(-1), -1).int()
    status = torch.zeros(batch, dtype=torch.int32, device=device)
    return TreeLayout(parent.clone(), depth, ancestors, first_child, next_sibling, status)


def accept_tree() -> list[Way]:
    def prepare(arguments: Arguments) -> Call:
        given = with_ancestors(arguments)
        return lambda: accept_by_masks(given)

    def compiled(arguments: Arguments) -> Call:
        given = with_ancestors(arguments)
        function = torch.compile(accept_by_masks, dynamic=False)
        return lambda: function(given)

    return [Way("torch", False, prepare), Way("torch, compiled", False, compiled, compiles=True)]


def with_ancestors(arguments: Arguments) -> Arguments:
    layout = arguments["layout"]
    return arguments | {"sees": unpack_ancestors(layout.ancestors, layout.parent.shape[1])}


def accept_by_masks(arguments: Arguments) -> Acceptance:
    """A node is on the path iff it and all its ancestors have their parents' target tokens.

    Takes trees whose siblings differ, as a top-k draft's do.
    """
    tokens, target_tokens = arguments["tokens"], arguments["target_tokens"]
    layout, max_path = arguments["layout"], arguments["max_path"]
    wanted = target_tokens.gather(1, layout.parent.clamp(min=0).long())
    matched = (tokens == wanted) | (layout.depth == 0)
    on_path = (matched.unsqueeze(1) | ~arguments["sees"]).all(-1) & (layout.depth < max_path)
    accept_length = on_path.sum(-1).int() - 1
    order = torch.where(on_path, layout.depth, max_path).long()
    batch, size = tokens.shape
    path = torch.full((batch, max_path + 1), -1, dtype=torch.int32, device=tokens.device)
    node = torch.arange(size, dtype=torch.int32, device=tokens.device).expand(batch, size)
    path = path.scatter(1, order, node)[:, :max_path]
    depth = torch.arange(max_path, device=tokens.device)
    is_path = depth <= accept_length.unsqueeze(1)
    path = torch.where(is_path, path, -1)
    emitted = target_tokens.gather(1, path.clamp(min=0).long())
    return Acceptance(path, accept_length, torch.where(is_path, emitted, -1))


@cache
def _sgl_kernel() -> Any:
    """SGLang's kernels, or the reason why they are not here."""
    try:
        return import_module("sgl_kernel")
    except Exception as error:  # a wheel for another CUDA fails in its own way
        return f"sgl_kernel cannot be imported: {type(error).__name__}"


def _missing() -> str | None:
    found = _sgl_kernel()
    return found if isinstance(found, str) else None


def sgl_build_tree() -> Way:
    return Way("sgl_kernel", False, _sgl_build_tree, _missing(), _layout_of)


def _sgl_build_tree(arguments: Arguments) -> Call:
    """The same trees in its encoding: every node a group of its own in the grown history.

    With topk = T, node i stands at flat place T * parent + i - 1 of the history, so that groups
    ascend with parents, and parent_list[group] is the place of the group's parent.
    """
    parent = arguments["parent"]
    batch, nodes = parent.shape
    device = parent.device
    node = torch.arange(1, nodes, device=device)
    selected = nodes * parent[:, 1:].long() + node - 1
    parents = torch.full((batch, nodes * (nodes - 1) + 1), -1, dtype=torch.int64, device=device)
    parents[:, 1:nodes] = selected
    mask = torch.zeros(batch * nodes * nodes, dtype=torch.bool, device=device)
    numbers = torch.full((3, batch, nodes), -1, dtype=torch.int64, device=device)
    positions = torch.zeros(batch * nodes, dtype=torch.int64, device=device)
    lengths = torch.zeros(batch, dtype=torch.int64, device=device)

    def call() -> tuple[Tensor, ...]:
        _sgl_kernel().build_tree_kernel_efficient(
            parents, selected, lengths, mask, positions, *numbers, nodes, nodes, nodes, 1
        )
        return mask, positions, *numbers

    return call


def _layout_of(arguments: Arguments, result: tuple[Tensor, ...]) -> TreeLayout:
    mask, positions, _, first_child, next_sibling = result
    parent = arguments["parent"]
    batch, nodes = parent.shape
    return TreeLayout(
        parent,
        positions.view(batch, nodes).int(),
        pack_ancestors(mask.view(batch, nodes, nodes)),
        first_child.int(),
        next_sibling.int(),
        torch.zeros(batch, dtype=torch.int32, device=parent.device),
    )


def sgl_accept_tree() -> Way:
    return Way("sgl_kernel", False, _sgl_accept_tree, _missing(), _acceptance_of)


def _sgl_accept_tree(arguments: Arguments) -> Call:
    layout, tokens = arguments["layout"], arguments["tokens"]
    batch, nodes = tokens.shape
    device = tokens.device
    index = torch.arange(batch * nodes, device=device).view(batch, nodes)
    predicts = torch.zeros(batch * nodes, dtype=torch.int32, device=device)
    accepted = torch.full((batch, arguments["max_path"]), -1, dtype=torch.int32, device=device)
    count = torch.zeros(batch, dtype=torch.int32, device=device)
    links = [layout.first_child.long(), layout.next_sibling.long()]

    def call() -> tuple[Tensor, Tensor, Tensor]:
        _sgl_kernel().verify_tree_greedy(
            predicts, accepted, count, tokens, index, *links, arguments["target_tokens"]
        )
        return predicts, accepted, count

    return call


def _acceptance_of(arguments: Arguments, result: tuple[Tensor, ...]) -> Acceptance:
    predicts, accepted, count = result
    batch, nodes = arguments["tokens"].shape
    first = nodes * torch.arange(batch, device=count.device).unsqueeze(1)
    is_path = accepted >= 0
    path = torch.where(is_path, accepted - first, -1).int()
    emitted = torch.where(is_path, predicts[accepted.clamp(min=0).long()], -1).long()
    return Acceptance(path, count, emitted)
