"""Drafted trees as sgl-kernel takes them, renumbered as our ops number theirs.

sgl-kernel follows links, from a node to its first child and from there from sibling to sibling, and
asks nothing of the numbers on the way. Our ops want every link to lead to a later node. What leads
to a node leads to all that it links to as well, and so does the node: along a link, the number of
nodes that lead there rises. Sorted by it, siblings keep their order, and a link that still does not
rise is part of a cycle, which our ops refuse or end the walk at.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparrow_kernels import Acceptance, TreeLayout, accept_tree
from sparrow_kernels.integrations.arguments import INTEGERS, check, refuse
from sparrow_kernels.integrations.sglang.links import wrong_link


class Tree(NamedTuple):
    """A batch of drafted trees as sgl-kernel hands them over; all `[B, N]`."""

    tokens: Tensor
    indices: Tensor
    next_token: Tensor
    next_sibling: Tensor

    def check(self, op: str) -> None:
        shape, device = self.tokens.shape, self.tokens.device
        check(op, "draft_tokens", self.tokens, [-1, -1], torch.int64, device)
        if shape[1] < 1:
            refuse(op, "draft_tokens", "[B, N] with N >= 1", list(shape))
        check(op, "retrieve_index", self.indices, shape, INTEGERS, device)
        check(op, "retrieve_next_token", self.next_token, shape, INTEGERS, device)
        check(op, "retrieve_next_sibling", self.next_sibling, shape, INTEGERS, device)

    def numbered(self) -> Numbered:
        """The same trees in our numbers, without the links of nodes that no walk can reach."""
        nodes = self.tokens.shape[1]
        number = torch.arange(nodes, device=self.tokens.device)
        child = self.next_token.long()
        # No walk asks for a sibling of the root.
        sibling = torch.where(number == 0, -1, self.next_sibling.long())
        leads = (child[..., None] == number) | (sibling[..., None] == number)
        leads |= number[:, None] == number
        ways = leads.float()
        for _ in range(max(nodes - 2, 0).bit_length()):  # each round doubles how far they lead
            ways = (ways @ ways).clamp(max=1)
        leads = ways > 0
        is_reached = leads[:, 0]
        key = leads.sum(1) + torch.where(is_reached, 0, nodes + 1)
        order = (key * nodes + number).argsort(-1)
        rank = torch.empty_like(order).scatter_(1, order, number.expand_as(order))

        def renumbered(links: Tensor) -> Tensor:
            is_inside = (links >= 0) & (links < nodes)
            new = rank.gather(1, links.clamp(0, nodes - 1))
            new = torch.where(is_inside, new, torch.where(links == -1, -1, nodes))
            return torch.where(is_reached, new, -1).gather(1, order).int()

        tokens, indices = self.tokens.gather(1, order), self.indices.gather(1, order)
        return Numbered(self, order, tokens, indices, renumbered(child), renumbered(sibling))


class Numbered(NamedTuple):
    """Trees in our numbers, all `[B, N]`. The root is 0; a link is -1 for none, a later node, or,
    where the caller's links are no tree's, N or an earlier node."""

    given: Tree
    order: Tensor
    """int64, the caller's number of each node."""
    tokens: Tensor
    indices: Tensor
    first_child: Tensor
    next_sibling: Tensor

    def without_shared(self) -> Numbered:
        """The links to a node that several lead to become N: in a tree there are none."""
        batch, nodes = self.tokens.shape
        links = torch.cat([self.first_child, self.next_sibling], 1).long()
        is_link = (links >= 0) & (links < nodes)
        count = links.new_zeros(batch, nodes + 1)
        count.scatter_add_(1, torch.where(is_link, links, nodes), is_link.long())
        is_shared = is_link & (count.gather(1, links.clamp(0, nodes)) > 1)
        child, sibling = torch.where(is_shared, nodes, links).int().chunk(2, 1)
        return self._replace(first_child=child, next_sibling=sibling)

    def parents(self) -> Tensor:
        """`[B, N]` int64 parent of each node that a link leads to, -1 of the root and the others.
        No node may be shared; a link that is no later node counts as none."""
        batch, nodes = self.tokens.shape
        number = torch.arange(nodes, device=self.tokens.device)

        def sources(links: Tensor, where_none: Tensor) -> Tensor:
            """Which node links to each; one column more takes what links nowhere."""
            is_link = (links > number) & (links < nodes)
            into = torch.where(is_link, links, nodes).long()
            return where_none.repeat(batch, 1).scatter_(1, into, number.expand(batch, nodes))

        first = sources(self.next_sibling, torch.arange(nodes + 1, device=number.device))
        for _ in range(nodes.bit_length()):  # each round doubles how far back along the siblings
            first = first.gather(1, first)
        above = sources(self.first_child, number.new_full((nodes + 1,), -1))
        return above.gather(1, first[:, :nodes])

    def walk(self, op: str, tokens: Tensor, target_tokens: Tensor, max_nodes: int) -> Acceptance:
        """`accept_tree` along the links. It reads nothing else of a layout but the depth of the
        root, so the other fields, which would cost launches, stay blank."""
        blank = torch.zeros_like(self.first_child)
        words = blank.new_zeros((*blank.shape, (blank.shape[1] + 63) // 64), dtype=torch.int64)
        links = (self.first_child.contiguous(), self.next_sibling.contiguous())
        layout = TreeLayout(blank, blank, words, *links, blank[:, 0])
        try:
            return accept_tree(tokens, layout, target_tokens, max_nodes)
        except ValueError:
            self._name_the_link(op)
            raise

    def _name_the_link(self, op: str) -> None:
        """Say in the caller's numbers which link our op refused in its own."""
        rows = zip(self.given.next_token.tolist(), self.given.next_sibling.tolist(), strict=True)
        for request, row in enumerate(rows):
            wrong = wrong_link(*row)
            if wrong is not None:
                got = f"{wrong.argument}[{request}][{wrong.node}] = {wrong.link}"
                refuse(op, wrong.argument, wrong.must_be, got)
