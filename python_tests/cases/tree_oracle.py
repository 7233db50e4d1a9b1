"""Draft trees drawn at random, and what the ops must make of them, from the definition alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from emulation import Library
from hypothesis import strategies as st
from torch import Tensor

LAYOUT_FIELDS = ("parent", "depth", "ancestors", "first_child", "next_sibling")


def int32(rows: Sequence) -> Tensor:
    return torch.tensor(rows, dtype=torch.int32)


@st.composite
def tree_batches(draw: st.DrawFn, max_nodes: int = 150) -> tuple[list[list[int]], list[int]]:
    """Parents of a batch of well-formed trees, and how many of the nodes count; 0 is idle."""
    slots = draw(st.integers(1, max_nodes))
    source = random.Random(draw(st.integers(0, 2**32)))
    reach = draw(st.sampled_from([1, 3, slots]))  # 1 makes chains, a large one bushes
    parents = [
        [-1] + [source.randrange(max(0, node - reach), node) for node in range(1, slots)]
        for _ in range(draw(st.integers(1, 4)))
    ]
    counts = [draw(st.sampled_from([0, 1, slots, source.randint(0, slots)])) for _ in parents]
    return parents, counts


class Tree(NamedTuple):
    """One tree's layout as plain Python; `ancestors` is one integer of T bits a node."""

    parent: list[int]
    depth: list[int]
    ancestors: list[int]
    first_child: list[int]
    next_sibling: list[int]


def lay_out(parent: Sequence[int], num_nodes: int) -> Tree:
    """What `build_tree` must give for one well-formed tree, by following every node to its root."""
    slots = len(parent)
    lines = []
    for node in range(slots):
        line = []
        while node != -1 and node < num_nodes:
            line.append(node)
            node = parent[node]
        lines.append(line)
    children = [[c for c in range(num_nodes) if parent[c] == node] for node in range(slots)]
    after = {}
    for siblings in children[:num_nodes]:
        after.update(zip(siblings, siblings[1:], strict=False))
    return Tree(
        parent=[parent[node] if node < num_nodes else -1 for node in range(slots)],
        depth=[len(line) - 1 for line in lines],
        ancestors=[sum(1 << node for node in line) for line in lines],
        first_child=[
            children[node][0] if node < num_nodes and children[node] else -1
            for node in range(slots)
        ],
        next_sibling=[after.get(node, -1) for node in range(slots)],
    )


def bits(words: Sequence[int]) -> int:
    """64-bit patterns, spelled as signed integers, as one integer."""
    return sum((word % (1 << 64)) << (64 * place) for place, word in enumerate(words))


def walk(
    tree: Tree, tokens: Sequence[int], target_tokens: Sequence[int], max_path: int
) -> tuple[list[int], int, list[int]]:
    """What `accept_tree` must give for one tree: path, accept_length, emitted tokens."""
    if tree.depth[0] < 0:
        return [-1] * max_path, -1, [-1] * max_path
    path = [0]
    while len(path) < max_path:
        wanted = target_tokens[path[-1]]
        matching = [
            node
            for node in range(len(tokens))
            if tree.parent[node] == path[-1] and tokens[node] == wanted
        ]
        if not matching:
            break
        path.append(min(matching))
    padding = [-1] * (max_path - len(path))
    emitted = [tokens[node] for node in path[1:]] + [target_tokens[path[-1]]]
    return path + padding, len(path) - 1, emitted + padding


def assert_laid_out(library: Library, parents: list[list[int]], counts: list[int]) -> None:
    """`build_tree` gives what following every node to its root gives."""
    fields = library.ops.build_tree(int32(parents), int32(counts))
    got = [field.tolist() for field in fields]
    for b, (parent, num_nodes) in enumerate(zip(parents, counts, strict=True)):
        bad = first_bad(parent, num_nodes)
        tree = lay_out(parent, num_nodes) if bad is None else lay_out([-1] * len(parent), 1)
        assert got[0][b] == tree.parent
        assert got[1][b] == tree.depth
        assert [bits(row) for row in got[2][b]] == tree.ancestors
        assert got[3][b] == tree.first_child
        assert got[4][b] == tree.next_sibling
        assert got[5][b] == (0 if bad is None else bad + 1)


def first_bad(parent: Sequence[int], num_nodes: int) -> int | None:
    """The first node that has no place in a tree."""
    for node in range(num_nodes):
        if parent[node] != -1 if node == 0 else not 0 <= parent[node] < node:
            return node
    return None


def walk_links(
    depth: Sequence[int],
    first_child: Sequence[int],
    next_sibling: Sequence[int],
    tokens: Sequence[int],
    target_tokens: Sequence[int],
    max_path: int,
) -> tuple[list[int], int, list[int]]:
    """What `accept_tree` must give for any layout, a malformed one too: a link outside the tree is
    none, and siblings ascend or end."""
    slots = len(tokens)
    if slots == 0 or depth[0] < 0:
        return [-1] * max_path, -1, [-1] * max_path
    path = [0]
    while len(path) < max_path:
        child = first_child[path[-1]]
        while 0 <= child < slots and tokens[child] != target_tokens[path[-1]]:
            child = next_sibling[child] if next_sibling[child] > child else slots
        if not 0 <= child < slots:
            break
        path.append(child)
    padding = [-1] * (max_path - len(path))
    emitted = [tokens[node] for node in path[1:]] + [target_tokens[path[-1]]]
    return path + padding, len(path) - 1, emitted + padding
