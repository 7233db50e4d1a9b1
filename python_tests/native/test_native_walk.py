"""The native build_tree and accept_tree over ten thousand drawn trees, and the named hard ones.

The same tests run over every native library (emulation.py).
"""

from __future__ import annotations

import random

import pytest
import torch
from emulation import Library
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_oracle import assert_laid_out, int32, lay_out, walk, walk_links

TREES = 10_000
TREES_A_BATCH = 50
WILD = (2**31 - 1, -(2**31), -2)


def layout(library: Library, parents: list[list[int]], counts: list[int]) -> list[torch.Tensor]:
    return list(library.ops.build_tree(int32(parents), int32(counts))[:5])


def assert_walked(
    library: Library,
    fields: list[torch.Tensor],
    tokens: list[list[int]],
    target_tokens: list[list[int]],
    max_path: int,
) -> None:
    """`accept_tree` follows the links, whatever they say."""
    got = library.ops.accept_tree(
        torch.tensor(tokens), *fields, torch.tensor(target_tokens), max_path
    )
    wanted = [
        walk_links(depth, first_child, next_sibling, tokens[b], target_tokens[b], max_path)
        for b, (depth, first_child, next_sibling) in enumerate(
            zip(*(fields[f].tolist() for f in (1, 3, 4)), strict=True)
        )
    ]
    assert list(zip(*(field.tolist() for field in got), strict=True)) == wanted


@st.composite
def forests(draw: st.DrawFn) -> tuple[list[list[int]], list[int], random.Random]:
    """Trees of one T, ragged, idle and malformed ones among them, with junk in their padding."""
    slots = draw(st.sampled_from([1, 2, 3, 7, 16, 30, 31, 32, 33, 48, 63, 64, 65]))
    source = random.Random(draw(st.integers(0, 2**32)))
    parents, counts = [], []
    for _ in range(TREES_A_BATCH):
        reach = source.choice([1, 2, 5, slots])  # 1 makes chains, a large one bushes
        parent = [-1] + [source.randrange(max(0, n - reach), n) for n in range(1, slots)]
        count = source.choice([0, 1, slots, slots, source.randint(0, slots)])
        if source.random() < 0.15:
            parent[source.randrange(slots)] = source.choice([*WILD, -1, slots, slots - 1])
        parent[count:] = [source.choice([*WILD, 0]) for _ in parent[count:]]
        parents.append(parent)
        counts.append(count)
    return parents, counts, source


@pytest.mark.slow
def test_ten_thousand_trees(library: Library) -> None:
    """A small vocabulary makes siblings with the same token and long paths. The emulator, which
    takes milliseconds a tree, gets one in five."""
    seen, trees = 0, TREES // 5 if library.name == "emulated" else TREES

    @settings(max_examples=trees // TREES_A_BATCH, deadline=None)
    @given(forests())
    def lay_out_and_walk(forest: tuple[list[list[int]], list[int], random.Random]) -> None:
        nonlocal seen
        parents, counts, source = forest
        slots, vocab = len(parents[0]), source.choice([1, 2, 3, 1000])
        assert_laid_out(library, parents, counts)

        def draw() -> list[list[int]]:
            return [[source.randrange(vocab) for _ in range(slots)] for _ in parents]

        fields, tokens, target_tokens = layout(library, parents, counts), draw(), draw()
        max_path = source.randint(1, slots + 1)
        assert_walked(library, fields, tokens, target_tokens, max_path)
        seen += len(parents)

    lay_out_and_walk()
    assert seen >= trees


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32))
def test_any_layout_is_walked_by_its_links(library: Library, seed: int) -> None:
    """Links and parents that disagree, that point outside, or in a ring."""
    source = random.Random(seed)
    slots, batch = source.choice([2, 5, 33, 70]), 20
    parents = [[-1] + [source.randrange(n) for n in range(1, slots)] for _ in range(batch)]
    fields = layout(library, parents, [slots] * batch)
    values = [*WILD, slots, *range(-1, slots)]
    for field in (0, 1, 3, 4):
        for b in range(batch):
            for _ in range(source.choice([0, 0, 1, 4])):
                fields[field][b, source.randrange(slots)] = source.choice(values)
    tokens = [[source.randrange(2) for _ in range(slots)] for _ in parents]
    target_tokens = [[source.randrange(2) for _ in range(slots)] for _ in parents]
    assert_walked(library, fields, tokens, target_tokens, source.randint(1, slots + 9))


@pytest.mark.parametrize("wild", [*WILD, 0, 1, 3])
def test_a_wholly_wild_layout_ends_the_walk(library: Library, wild: int) -> None:
    links = int32([[wild] * 3])
    words = torch.zeros(1, 3, 1, dtype=torch.long)
    fields = [links, int32([[0, 1, 2]]), words, links, links]
    assert_walked(library, fields, [[5, 6, 7]], [[7, 7, 7]], 6)


@pytest.mark.parametrize("slots", [1, 64, 65, 1024])
@pytest.mark.parametrize("kind", ["all accepted", "all refused", "cut short"])
def test_a_chain(library: Library, slots: int, kind: str) -> None:
    parent, tokens = list(range(-1, slots - 1)), list(range(100, 100 + slots))
    target = [-7] * slots if kind == "all refused" else [token + 1 for token in tokens]
    max_path = max(1, slots // 2) if kind == "cut short" else slots
    fields = layout(library, [parent], [slots])
    path, accept_length, emitted = library.ops.accept_tree(
        torch.tensor([tokens]), *fields, torch.tensor([target]), max_path
    )
    wanted = walk(lay_out(parent, slots), tokens, target, max_path)
    assert (path[0].tolist(), accept_length.item(), emitted[0].tolist()) == wanted
    assert accept_length.item() == (0 if kind == "all refused" else max_path - 1)


def test_a_star_takes_the_lowest_of_equal_siblings(library: Library) -> None:
    fields = layout(library, [[-1] + [0] * 1023], [1024])
    tokens = torch.zeros(1, 1024, dtype=torch.long)
    tokens[0, 500:] = 9
    path, accept_length, emitted = library.ops.accept_tree(
        tokens, *fields, torch.full((1, 1024), 9), 3
    )
    assert path.tolist() == [[0, 500, -1]]
    assert (accept_length.tolist(), emitted.tolist()) == ([1], [[9, 9, -1]])


@pytest.mark.parametrize("slots", [1024, 5200])
def test_large_trees(library: Library, slots: int) -> None:
    """5,200 nodes are more than a block's shared memory holds."""
    source = random.Random(slots)
    parent = [-1] + [source.randrange(max(0, n - 4), n) for n in range(1, slots)]
    tokens = [[source.randrange(2) for _ in range(slots)]]
    fields = layout(library, [parent], [slots])
    depths = [0] * slots
    for node in range(1, slots):
        depths[node] = depths[parent[node]] + 1
    assert fields[1][0].tolist() == depths
    last = fields[2][0, -1].tolist()
    line, node = set(), slots - 1
    while node >= 0:
        line.add(node)
        node = parent[node]
    assert {n for n in range(slots) if last[n // 64] >> (n % 64) & 1} == line
    assert_walked(library, fields, tokens, tokens, slots + 3)


def test_strided_inputs(library: Library) -> None:
    wide = torch.full((2, 9), 3)
    fields = [field.repeat(1, 2)[:, :3] for field in layout(library, [[-1, 0, 1]] * 2, [3, 3])[:2]]
    fields += layout(library, [[-1, 0, 1]] * 2, [3, 3])[2:]
    path, _, _ = library.ops.accept_tree(wide[:, :3], *fields, wide[:, 6:], 3)
    assert path.tolist() == [[0, 1, 2]] * 2


def test_no_requests_and_no_nodes(library: Library) -> None:
    nothing = torch.zeros(0, 3, dtype=torch.long)
    fields = list(library.ops.build_tree(torch.zeros(0, 3, dtype=torch.int32), None)[:5])
    assert library.ops.accept_tree(nothing, *fields, nothing, 2)[0].shape == (0, 2)
    empty = torch.zeros(2, 0, dtype=torch.long)
    fields = list(library.ops.build_tree(empty.int(), None)[:5])
    path, accept_length, emitted = library.ops.accept_tree(empty, *fields, empty, 2)
    assert path.tolist() == emitted.tolist() == [[-1, -1]] * 2
    assert accept_length.tolist() == [-1, -1]


def test_refusals_name_the_argument(library: Library) -> None:
    tokens = torch.zeros(1, 3, dtype=torch.long)
    fields = layout(library, [[-1, 0, 0]], [3])
    cases = [
        ((tokens.int(), *fields, tokens, 2), "tokens must be Long, got Int"),
        ((tokens, *fields, tokens[:, :2], 2), r"target_tokens must be \[1, 3\], got \[1, 2\]"),
        ((tokens, *fields, tokens, 0), "max_path must be at least 1, got 0"),
        ((tokens, fields[0][:, :2], *fields[1:], tokens, 2), "parent must be"),
        ((tokens, *fields[:3], fields[3][:, :2], fields[4], tokens, 2), "first_child must be"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=f"accept_tree: {message}"):
            library.ops.accept_tree(*arguments)
