"""`sample_logits` and `accept_tree_residual_logits`: the softmax forms, through the public ops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_oracle import draw, softmax, walk
from tree_cases import each_backend, forests, padded, strided

from sparrow_kernels import accept_tree_residual_logits, build_tree, sample_logits
from sparrow_kernels.ops import env
from sparrow_kernels.ops.accept.ops import ACCEPT_TREE_RESIDUAL_LOGITS, SAMPLE_LOGITS

SAMPLES = each_backend(SAMPLE_LOGITS)
WALKS = each_backend(ACCEPT_TREE_RESIDUAL_LOGITS)
V = 5
LOGIT = st.sampled_from([-math.inf, -90.0, -2.0, 0.0, 0.5, 3.0])
ROW = st.lists(LOGIT, min_size=V, max_size=V).filter(lambda row: max(row) > -math.inf)
COIN = st.integers(0, 1023).map(lambda k: (k + 0.5) / 1024)
TEMPERATURE = st.sampled_from([0.25, 1.0, 3.0])


@SAMPLES
@given(ROW, COIN, TEMPERATURE)
@settings(max_examples=100, deadline=None)
def test_drawn_rows(backend: str, row: list[float], coin: float, temperature: float) -> None:
    logits = torch.tensor([row])
    with env.backend(backend):
        token = sample_logits(logits, torch.tensor([coin]), temperature).item()
    expected, margin = draw(softmax(logits[0], temperature), coin)
    assert margin < 1e-6 or token == expected
    assert row[token] > -math.inf


@SAMPLES
def test_leading_dims_strides_and_dtypes(backend: str) -> None:
    torch.manual_seed(0)
    logits, coins = torch.randn(2, 3, 40), torch.rand(2, 3)
    with env.backend(backend):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            rows = logits.to(dtype)
            flat = [sample_logits(rows[b, i], coins[b, i]) for b in range(2) for i in range(3)]
            ids = sample_logits(strided(rows), strided(coins))
            assert ids.dtype == torch.int64
            assert torch.equal(ids.flatten(), torch.stack(flat))
    assert sample_logits(torch.zeros(0, 4), torch.zeros(0)).shape == (0,)


@SAMPLES
def test_frequencies_follow_the_temperature(backend: str) -> None:
    """Coins on a grid: every id comes as often as its probability says, to one."""
    logits = torch.tensor([1.0, -math.inf, 2.5, 0.0])
    coins = (torch.arange(1000) + 0.5) / 1000
    for temperature in (0.5, 1.0, 4.0):
        with env.backend(backend):
            ids = sample_logits(logits.expand(1000, 4), coins, temperature)
        counts = ids.bincount(minlength=4)
        assert (counts - 1000 * softmax(logits, temperature)).abs().max() <= 1


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_is_positive(temperature: float) -> None:
    message = r"temperature must be above 0 and finite, got .* \(greedy is argmax\)"
    with pytest.raises(ValueError, match=f"sample_logits: {message}"):
        sample_logits(torch.zeros(1, 3), torch.zeros(1), temperature)
    for name in ("temperature", "draft_temperature"):
        with pytest.raises(ValueError, match=f"accept_tree_residual_logits: .*{message}"):
            accept_tree_residual_logits(**case(), max_path=3, **{name: temperature})


@SAMPLES
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_bad_rows(backend: str, bad: float) -> None:
    logits = torch.zeros(3, 4)
    logits[1] = bad
    with pytest.raises(ValueError, match=r"sample_logits: logits must be .*logits\[1\] with max"):
        sample_logits(logits, torch.full((3,), 0.5))
    with env.backend(backend), env.checks(False):
        assert sample_logits(logits, torch.full((3,), 0.4)).tolist() == [1, -1, 1]


@SAMPLES
def test_bad_coins(backend: str) -> None:
    logits = torch.tensor([[-math.inf, 0.0, 0.0, -math.inf]]).repeat(3, 1)
    coins = torch.tensor([-0.5, 1.5, math.nan])
    with pytest.raises(ValueError, match=r"uniform must be in \[0, 1\]"):
        sample_logits(logits, coins)
    with env.backend(backend), env.checks(False):
        ids = sample_logits(logits, coins)
    assert ids[:2].tolist() == [1, 2] and ids[2] in (1, 2)


def test_wrong_kinds_are_refused() -> None:
    with pytest.raises(TypeError, match="logits must be float32 or float16 or bfloat16"):
        sample_logits(torch.zeros(1, 3).double(), torch.zeros(1))
    with pytest.raises(ValueError, match=r"uniform must be \[...\] = \[2\], got \[3\]"):
        sample_logits(torch.zeros(2, 3), torch.zeros(3))
    mixed = case(draft_logits=torch.zeros(2, 4, V).half())
    with pytest.raises(TypeError, match="draft_logits must be float32, got float16"):
        accept_tree_residual_logits(**mixed, max_path=3)
    with pytest.raises(ValueError, match="max_path must be at least 1"):
        accept_tree_residual_logits(**case(), max_path=0)


@pytest.mark.slow
@WALKS
@given(forests(max_nodes=7), st.integers(1, 4), TEMPERATURE, TEMPERATURE, st.data())
@settings(max_examples=60, deadline=None)
def test_drawn_walks(
    backend: str,
    drawn: tuple,
    max_path: int,
    temperature: float,
    draft_temperature: float,
    data: st.DataObject,
) -> None:
    batch, size = drawn

    def rows(element: st.SearchStrategy) -> list[list]:
        many = st.lists(element, min_size=size, max_size=size)
        return [data.draw(many) for _ in batch]

    tokens, coins = rows(st.integers(0, V - 1)), rows(COIN)
    target, draft = torch.tensor(rows(ROW)), torch.tensor(rows(ROW))
    bonus = [data.draw(COIN) for _ in batch]
    with env.backend(backend):
        accepted = accept_tree_residual_logits(
            torch.tensor(tokens), build_tree(*padded(batch, size)), target, draft,
            torch.tensor(coins), torch.tensor(bonus), max_path, temperature, draft_temperature,
        )  # fmt: skip
    for b, tree in enumerate(batch):
        if not tree:
            assert accepted.accept_length[b] == -1
            continue
        path, emitted, margin = walk(
            tree, tokens[b], softmax(target[b], temperature), softmax(draft[b], draft_temperature),
            coins[b], bonus[b], max_path,
        )  # fmt: skip
        if margin < 1e-4:
            continue  # a coin near a threshold, or a remainder of rounding: either side is right
        padding = [-1] * (max_path - len(path))
        assert accepted.path[b].tolist() == path + padding
        assert accepted.tokens[b].tolist() == emitted + padding


@WALKS
@pytest.mark.parametrize("second", [0, 2])
def test_after_all_that_the_draft_could_draw(backend: str, second: int) -> None:
    """Token 1 holds all the draft's mass and none of the target's. After it, the draft could have
    drawn nothing: accepted is what the target may say."""
    target = torch.tensor([[math.log(3), -math.inf, -math.inf, -math.inf, 0.0]]).repeat(4, 1)
    draft = torch.full((4, V), -math.inf).index_fill_(1, torch.tensor([1]), 0.0)
    tree, tokens, coins = [-1, 0, 0, 0], [0, 1, second, 4], [0.25] * 4
    path, emitted = ([0, 2], [0, 0]) if second == 0 else ([0, 3], [4, 0])
    with env.backend(backend):
        accepted = accept_tree_residual_logits(
            torch.tensor([tokens]), build_tree(*padded([tree], 4)), target[None], draft[None],
            torch.tensor([coins]), torch.tensor([0.5]), 2, 1.0, 1.0,
        )  # fmt: skip
    assert accepted.path.tolist() == [path] and accepted.tokens.tolist() == [emitted]
    rows = (softmax(target, 1.0), softmax(draft, 1.0))
    assert walk(tree, tokens, *rows, coins, 0.5, 2)[:2] == (path, emitted)


def case(**changes: torch.Tensor) -> dict:
    """One sound call: a root with two children and a grandchild, then an idle request."""
    parent = torch.tensor([[-1, 0, 0, 1], [-1, 0, 0, 0]], dtype=torch.int32)
    arguments = {
        "tokens": torch.tensor([[9, 1, 2, 3], [77, -5, 99, 0]]),
        "layout": build_tree(parent, torch.tensor([4, 0], dtype=torch.int32)),
        "target_logits": torch.zeros(2, 4, V),
        "draft_logits": torch.zeros(2, 4, V),
        "uniform": torch.full((2, 4), 0.5),
        "bonus_uniform": torch.full((2,), 0.5),
    }
    return arguments | changes


@WALKS
def test_the_draft_temperature_is_the_targets_unless_given(backend: str) -> None:
    torch.manual_seed(1)
    rows = {"target_logits": torch.randn(2, 4, V), "draft_logits": torch.randn(2, 4, V)}
    changed = 0
    with env.backend(backend):
        for k in range(20):
            arguments = case(**rows, uniform=torch.full((2, 4), (k + 0.5) / 20)) | {"max_path": 3}
            left_out = accept_tree_residual_logits(**arguments, temperature=0.5)
            same = accept_tree_residual_logits(**arguments, temperature=0.5, draft_temperature=0.5)
            other = accept_tree_residual_logits(**arguments, temperature=0.5, draft_temperature=4.0)
            assert torch.equal(left_out.tokens, same.tokens)
            changed += not torch.equal(left_out.path, other.path)
    assert changed > 0


@WALKS
def test_what_a_walk_cannot_reach_is_not_read(backend: str) -> None:
    clean, dirty = case(), case()
    for name in ("target_logits", "draft_logits", "uniform", "bonus_uniform"):
        dirty[name][1] = math.nan
    dirty["draft_logits"][0, 2:] = math.nan
    with env.backend(backend):
        for checked in (True, False):
            with env.checks(checked):
                expected = accept_tree_residual_logits(**clean, max_path=3)
                accepted = accept_tree_residual_logits(**dirty, max_path=3)
            for one, other in zip(accepted, expected, strict=True):
                assert torch.equal(one, other)
    assert expected.path.tolist() == [[0, 1, 3], [-1, -1, -1]]


@WALKS
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("target_logits", value) for value in (math.nan, math.inf)),
        *(("draft_logits", value) for value in (math.nan, math.inf)),
        *(("uniform", value) for value in (math.nan, -0.5, 1.5)),
        *(("bonus_uniform", value) for value in (math.nan, -0.5, 1.5)),
        *(("tokens", value) for value in (-1, V, 2**62, -(2**62))),
    ],
)
def test_bad_values(backend: str, name: str, value: float) -> None:
    bad = case()
    where = {"target_logits": (0, 2, 1), "draft_logits": (0, 1, 1), "bonus_uniform": (0,)}
    bad[name][where.get(name, (0, 1))] = value
    with pytest.raises(
        ValueError, match=rf"accept_tree_residual_logits: {name} must .*{name}\[0\]"
    ):
        accept_tree_residual_logits(**bad, max_path=3)
    with env.backend(backend), env.checks(False):
        path, accept_length, tokens = accept_tree_residual_logits(**bad, max_path=3)
    assert ((tokens >= -1) & (tokens < V)).all()
    assert path[0, 0] == 0
    assert 0 <= accept_length[0] <= 2
    assert (path[1] == -1).all()
