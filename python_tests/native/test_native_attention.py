"""Native tree attention: on every vector unit that there is, and the same bits in company."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attention_oracle import Case, rows_of, tree_bits

from sparrow_kernels import _C
from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import tree_attention

TESTS = Path(__file__).parents[1] / "ops"
BUSHY = [-1, 0, 0, 1, 1, 2, 3, 3, 4, 6, 9]
DEPTH = [0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 5]


def at_level(level: str, *command: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "SPARROW_CPU_LEVEL": level, "OMP_NUM_THREADS": "1"}
    if level == "baseline":  # PyTorch, whose own error is the measure, does without as well
        settings["ATEN_CPU_CAPABILITY"] = "default"
    return subprocess.run(
        [sys.executable, *command], env=settings, capture_output=True, text=True, timeout=300
    )


LEVELS = ("baseline", "avx2", "avx512")
_SAYS_LEVEL = ("-c", "from sparrow_kernels import _C; print(_C.cpu_level)")


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_every_level(level: str) -> None:
    """One that the processor lacks is the highest that it has, at which all other tests run."""
    own = _C.cpu_level
    if LEVELS.index(level) >= LEVELS.index(own):
        assert at_level(level, *_SAYS_LEVEL).stdout == f"{own}\n"
        return
    names = ("tree", "anchors", "window", "window_lse")
    files = [str(TESTS / f"test_attention_{name}.py") for name in names]
    chosen = "native and not are_ops"
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", chosen)
    done = at_level(level, "-m", "pytest", *options, *files)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout


@pytest.mark.slow
def test_a_level_that_does_not_exist() -> None:
    code = "import torch; from sparrow_kernels import tree_attention; x = torch.ones(1, 1, 1, 8);"
    code += " tree_attention(x, x, x, torch.ones(1, 1, 1).long(), torch.zeros(1).int())"
    done = at_level("sse9", "-c", code)
    assert "SPARROW_CPU_LEVEL must be baseline, avx2 or avx512, got sse9" in done.stderr


LONG = 64 * 23 + 5
INVARIANT = {
    "plain": Case([tree_bits(BUSHY)] * 2, [LONG, 700], capacity=1536, starts=[0, 9], num_words=2),
    "anchored": Case(
        [tree_bits(BUSHY)] * 2,
        [LONG, 700],
        capacity=1536,
        anchors=[set(range(0, LONG, 3)), set(range(40, 690))],
        window=200,
        depth=[DEPTH, DEPTH],
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_splits", [1, 3, 40])
@pytest.mark.parametrize("name", INVARIANT)
def test_a_row_has_the_same_bits_alone_in_company_and_on_any_number_of_threads(
    name: str, num_splits: int, dtype: torch.dtype
) -> None:
    case = replace(INVARIANT[name], heads=6, kv_heads=2, head_dim=40, dtype=dtype)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with env.backend("native"):
            out, lse = case.run(num_splits=num_splits)
            torch.set_num_threads(4)
            for rows, requests in (([10], [0]), ([5, 4, 9], [1, 0]), (list(range(11)), [0, 1])):
                part = rows_of(case, rows, requests)
                alone, alone_lse = part.run(num_splits=num_splits)
                assert torch.equal(alone, out[requests][:, :, rows])
                assert torch.equal(alone_lse, lse[requests][:, :, rows])
    finally:
        torch.set_num_threads(threads)


def test_more_splits_than_tiles_are_none() -> None:
    """In number: their memory is not asked for."""
    case = INVARIANT["plain"]
    with env.backend("native"):
        each, many = case.run(num_splits=40), case.run(num_splits=2**40)
    assert torch.equal(each[0], many[0]) and torch.equal(each[1], many[1])


def test_more_rows_than_one_pass_takes() -> None:
    tree = tree_bits([-1] + [node // 3 for node in range(69)])
    for heads in (7, 1):
        case = Case([tree], [130], heads=heads, kv_heads=1, capacity=256)
        with env.backend("native"):
            case.check()


@pytest.mark.parametrize("threads", [1, 3])
def test_one_long_prefix_is_shared_out(threads: int) -> None:
    """A single KV head leaves threads nothing to share but the prefix."""
    case = Case([tree_bits(BUSHY)], [6000], capacity=6100, heads=2, kv_heads=1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with env.backend("native"):
            case.check()
    finally:
        torch.set_num_threads(before)


def test_lse_of_any_strides() -> None:
    case = Case([tree_bits(BUSHY)], [33])
    wide = torch.full((11, 4, 1), float("nan"))
    lse = wide.permute(2, 1, 0)
    with env.backend("native"):
        out = torch.empty_like(case.query)
        case.check(tree_attention(*case.arguments(), out=(out, lse), return_lse=True))
