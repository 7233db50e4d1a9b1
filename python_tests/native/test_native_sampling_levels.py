"""Samplers and top-k on a CPU: the same bits on any vector unit and number of threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from tree_cases import random_tree

from sparrow_kernels import _C

OPS = torch.ops.sparrow_native
# Less than a part, parts with every kind of rest, and a vocabulary that threads share out.
VOCABULARIES = (1, 15, 1023, 1025, 2049, 6001, 152_064)
THREADS = (1, 2, 3, 5)


def results(vocab: int) -> list[Tensor]:
    """Of every op on rows off their alignment, some ids masked."""
    generator = torch.Generator().manual_seed(vocab)

    def drawn(*shape: int) -> Tensor:
        wide = torch.randn(*shape[:-1], shape[-1] + 3, generator=generator) * 3
        return wide[..., 2:-1]

    logits, coins = drawn(3, vocab), torch.rand(3, generator=generator)
    coins[0] = 1
    found = [OPS.sample_tokens(logits.exp()[:, :vocab], coins)]
    logits[:, 1::7] = -torch.inf
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        rows = logits.to(dtype)
        found.append(OPS.sample_logits(rows, coins, 0.7))
        found.extend(OPS.topk_logprobs(rows, min(vocab, 40)))
    found.append(OPS.sample_logits(logits[:1], coins[1:2], 1.3))  # one row for all threads
    target = drawn(1, 9, vocab)
    draft = target + drawn(1, 9, vocab) / 4
    tokens = draft.argmax(-1).roll(1, 1)
    layout = OPS.build_tree(torch.tensor([random_tree(9, 3)], dtype=torch.int32), None)[:5]
    uniform = torch.rand(1, 9, generator=generator)
    call = (tokens, *layout, target, draft, uniform, coins[1:2], 5)
    found.extend(OPS.accept_tree_residual_logits(*call, 1.0, 1.2))
    plain = (tokens, *layout, target.softmax(-1), draft.softmax(-1), uniform, coins[1:2], 5)
    found.extend(OPS.accept_tree_residual(*plain))
    return found


def bits(found: list[Tensor]) -> str:
    return repr([each.contiguous().view(torch.uint8).flatten().tolist() for each in found])


@pytest.fixture
def threads() -> object:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_any_number_of_threads(vocab: int, threads: object) -> None:
    """With fewer rows than threads, a row is shared out."""
    found = []
    for number in THREADS:
        threads(number)
        found.append(bits(results(vocab)))
    assert set(found) == {found[0]}


LEVELS = ("baseline", "avx2", "avx512")
# A level is read when the ops are loaded: in a fork for each, of what has imported torch alone.
PROGRAM = """
import os, sys, torch
for level in sys.argv[1:]:
    if os.fork() == 0:
        os.environ["SPARROW_CPU_LEVEL"] = level
        import hashlib, sparrow_kernels._C as facts, sparrow_kernels.ops.native as native
        native.unavailable()
        import test_native_sampling_levels as tests
        found = [tests.bits(tests.results(vocab)).encode() for vocab in tests.VOCABULARIES]
        print(facts.cpu_level, *(hashlib.sha256(each).hexdigest() for each in found))
        break
    if os.wait()[1] != 0:
        sys.exit(1)
"""


@pytest.mark.slow
def test_every_level() -> None:
    """One that the processor lacks runs as the highest that it has."""
    folders = [os.path.dirname(__file__), *sys.path]
    # PyTorch's own exponentials, which make the rows, depend on its level.
    settings = {"ATEN_CPU_CAPABILITY": "default", "PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *LEVELS],
        env=os.environ | settings, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    own = LEVELS.index(_C.cpu_level)
    assert [level for level, *_ in found] == [LEVELS[min(n, own)] for n in range(len(LEVELS))]
    assert len(found[0]) == 1 + len(VOCABULARIES)
    assert found[1][1:] == found[2][1:] == found[0][1:]
