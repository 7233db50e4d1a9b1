"""The sampling ops over whole rows: real vocabularies, odd widths, rows off their alignment."""

from __future__ import annotations

import pytest
import torch
from emulation import Library
from sampling_oracle import ALLOWED, draw, softmax, walk
from torch import Tensor
from tree_cases import random_tree, strided

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
BUILD_TREE = torch.ops.sparrow_native.build_tree


def moved(library: Library, *tensors: Tensor) -> list[Tensor]:
    """What was drawn on a CPU, so that every library meets the same numbers."""
    return [tensor.to(library.device) for tensor in tensors]


def expect(ids: Tensor, weights: Tensor, coins: Tensor) -> None:
    """`ids` are draws from `weights` `[R, V]`, coins beside a step apart."""
    tried = 0
    for token, row, coin in zip(ids.tolist(), weights.cpu(), coins.tolist(), strict=True):
        expected, margin = draw(row, coin)
        assert row[token] > 0
        if margin > ALLOWED:
            assert token == expected
            tried += 1
    assert tried >= len(coins) * 0.5  # the steps of 152,064 ids are close together


@pytest.mark.parametrize("vocab", [1, 2, 63, 511, 513, 4099, 152_064])
def test_sample_tokens(library: Library, vocab: int) -> None:
    torch.manual_seed(vocab)
    with torch.device("cpu"):
        probs, coins = torch.rand(6, vocab) ** 4 + 1e-6, torch.rand(6)
    coins[0], coins[1] = 0, 1
    expect(library.ops.sample_tokens(*moved(library, probs, coins)), probs, coins)


@pytest.mark.slow
@pytest.mark.parametrize("vocab", [1, 3, 1000, 152_064])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sample_logits(library: Library, dtype: torch.dtype, vocab: int) -> None:
    torch.manual_seed(vocab)
    with torch.device("cpu"):
        logits, coins = (torch.randn(5, vocab) * 5).to(dtype), torch.rand(5)
    logits[:, 1::3] = -torch.inf
    coins[0], coins[1] = 0, 1
    for temperature in (1.0, 0.3, 7.0) if vocab < 10_000 else (0.3,):
        ids = library.ops.sample_logits(*moved(library, logits, coins), temperature)
        expect(ids, softmax(logits, temperature), coins)


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_misaligned_rows(library: Library, offset: int) -> None:
    torch.manual_seed(offset)
    wide, coins = torch.rand(4, 1201), torch.rand(4)
    wide[:, :offset], wide[:, -1] = torch.nan, torch.nan
    inside = wide[:, offset:-1]
    expect(library.ops.sample_tokens(inside, coins), inside, coins)
    for dtype in DTYPES:
        logits = (wide * 8).to(dtype)[:, offset:-1]
        expect(library.ops.sample_logits(logits, coins, 1.0), softmax(logits, 1.0), coins)


@pytest.mark.parametrize("temperature", [1e-30, 1e-3, 1e30, 1e300])
def test_extreme_temperatures(library: Library, temperature: float) -> None:
    """So cold that the first of the largest is left, so warm that all finite ones are equal."""
    logits = torch.tensor([[1.0, 3.0, -torch.inf, 3.0, 2.0]]).repeat(4, 1)
    ids = library.ops.sample_logits(logits, torch.tensor([0.0, 0.3, 0.6, 1.0]), temperature)
    assert ids.tolist() == ([1, 1, 3, 3] if temperature < 1 else [0, 1, 3, 4])


@pytest.mark.parametrize(
    "row",
    [[-torch.inf, -torch.inf], [0.5, torch.nan], [torch.inf, 0.0], [torch.nan, torch.nan]],
    ids=["no mass", "nan", "infinite", "all nan"],
)
def test_logits_without_a_softmax_yield_no_token(library: Library, row: list[float]) -> None:
    logits = torch.tensor([row, [0.0, 1.0]])
    ids = library.ops.sample_logits(logits, torch.tensor([0.3, 0.1]), 1.0)
    assert ids.tolist() == [-1, 0]


@pytest.mark.parametrize("place", [0, 700])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -1.0])
def test_a_bad_weight_spoils_its_row_alone(library: Library, bad: float, place: int) -> None:
    probs = torch.ones(2, 1000)
    probs[0, place] = bad
    assert library.ops.sample_tokens(probs, torch.tensor([0.1, 0.1])).tolist() == [-1, 100]


def draws(logits: Tensor, parents: list[list[int]], temperature: float) -> Tensor:
    """`[B, T]` children drawn with replacement from their parent's softmax."""
    tokens = torch.zeros(logits.shape[:2], dtype=torch.long)
    for b, tree in enumerate(parents):
        for node in range(1, len(tree)):
            row = softmax(logits[b, tree[node]], temperature)
            tokens[b, node] = torch.multinomial(row.float(), 1)
    return tokens


# V, requests, nodes: one part, several warps, several blocks, and a real vocabulary.
SHAPES = [(1, 2, 5), (7, 4, 12), (515, 3, 12), (9001, 2, 10), (30_001, 1, 9), (152_064, 1, 9)]


@pytest.mark.slow
@pytest.mark.parametrize(("vocab", "batch", "size"), SHAPES)
@pytest.mark.parametrize("form", ["probs", "float32", "bfloat16", "float16"])
def test_residual_rows(library: Library, form: str, vocab: int, batch: int, size: int) -> None:
    """A draft near the target, so that paths are walked and refusals nest; strided inputs."""
    torch.manual_seed(vocab)
    parents = [random_tree(size, seed + 1) for seed in range(batch)]
    dtype = torch.float32 if form == "probs" else getattr(torch, form)
    temperatures = (1.0, 1.0) if form == "probs" else (0.8, 1.3)
    with torch.device("cpu"):
        target = (torch.randn(batch, size, vocab) * 3).to(dtype)
        draft = (target + torch.randn(batch, size, vocab)).to(dtype)
        tokens = draws(draft, parents, temperatures[1])
        coins, bonus = torch.rand(batch, size), torch.rand(batch)
    layout = BUILD_TREE(torch.tensor(parents, dtype=torch.int32), None)[:5]
    if form == "probs":
        target, draft = target.softmax(-1), draft.softmax(-1)
    tokens_there, coins_there, bonus_there = moved(library, tokens, coins, bonus)
    rows = [strided(tensor) for tensor in moved(library, target, draft)]
    call = (tokens_there, *layout, *rows, coins_there, bonus_there, 5)
    if form == "probs":
        path, _, emitted = library.ops.accept_tree_residual(*call)
    else:
        path, _, emitted = library.ops.accept_tree_residual_logits(*call, *temperatures)
        target, draft = softmax(target, temperatures[0]), softmax(draft, temperatures[1])
    tried = 0
    for b, tree in enumerate(parents):
        nodes, wanted, margin = walk(
            tree, tokens[b].tolist(), target[b], draft[b], coins[b].tolist(),
            bonus[b].item(), 5,
        )  # fmt: skip
        # Logits: their weights are float32, and what is left of them shrinks with each refusal.
        if margin > (ALLOWED if form == "probs" else 1e-5):
            padding = [-1] * (5 - len(nodes))
            assert path[b].tolist() == nodes + padding
            assert emitted[b].tolist() == wanted + padding
            tried += 1
    assert tried * 2 >= batch, "choose another seed"


def test_the_kept_rows_outside_shared_memory(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device before Hopper: one block, whose rows do not fit its shared memory."""
    if library.name != "emulated":
        pytest.skip("what runs depends on the device")
    monkeypatch.setenv("SPARROW_EMULATED_MAJOR", "8")
    for form in ("probs", "bfloat16"):
        test_residual_rows(library, form, 30_001, 2, 9)


@pytest.mark.parametrize("refused", [5, 700, 2999])
def test_nothing_left_starts_again(library: Library, refused: int) -> None:
    """Equal rows and a coin of one: the whole target comes back, the refused token included."""
    torch.manual_seed(0)
    row = torch.rand(3000) + 0.1
    cdf = row.double().cumsum(0) / row.double().sum()
    rows, ones = row.expand(1, 6, 3000), torch.ones(1, 6)
    layout = BUILD_TREE(torch.tensor([[-1, 0, 0, 0, 0, 0]], dtype=torch.int32), None)[:5]
    alone = BUILD_TREE(torch.tensor([[-1, 0]], dtype=torch.int32), None)[:5]
    for token in (refused, 1500, 0):
        coin = (cdf[token] - row[token].double() / row.double().sum() / 2).float()[None]
        _, _, emitted = library.ops.accept_tree_residual(
            torch.tensor([[0, refused]]), *alone, rows[:, :2], rows[:, :2], ones[:, :2], coin, 2
        )
        assert emitted.tolist() == [[token, -1]]
        # A second refusal leaves what the draft, without the first, cannot give: that first token.
        _, _, emitted = library.ops.accept_tree_residual(
            torch.tensor([[0, refused, 17, refused, 2998, 1501]]),
            *layout,
            rows,
            rows,
            ones,
            coin,
            2,
        )
        assert emitted.tolist() == [[refused, -1]]
