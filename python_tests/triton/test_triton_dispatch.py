"""The Triton attention as a PyTorch operator: when it is chosen, compiled, captured, overlapped."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from attention_oracle import Case, tree_bits
from dispatch import opcheck
from interpreter import CANNOT_INTERPRET, interpreted
from test_attention_dispatch import ANCHORED, BUSHY, PLAIN, op_arguments
from torch.utils._pytree import tree_map_only
from triton_plans import planned

from sparrow_kernels.embedded.clips import FRAMES_PER_SECOND, make_clip, render
from sparrow_kernels.models import SparrowDecoder
from sparrow_kernels.models.pair import load_pair
from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import tree_attention
from sparrow_kernels.ops.attention.ops import TREE_ATTENTION, TREE_ATTENTION_OUT
from sparrow_kernels.ops.attention.triton import configurations
from sparrow_kernels.training.small_target import clip_inputs


def on_gpu(values):
    return tree_map_only(torch.Tensor, lambda tensor: tensor.cuda(), values)


@pytest.mark.slow
@interpreted
@pytest.mark.parametrize("case", [PLAIN, ANCHORED], ids=["plain", "anchored"])
def test_opcheck(case):
    with planned("two subtiles"):
        opcheck(TREE_ATTENTION, "triton", *op_arguments(case))
        out, lse = torch.empty_like(case.query), torch.empty(case.query.shape[:3])
        opcheck(TREE_ATTENTION_OUT, "triton", *op_arguments(case), out, lse)


def test_a_cpu_does_not_choose_it():
    chosen = TREE_ATTENTION._choose("cpu", PLAIN.arguments())
    assert chosen is not TREE_ATTENTION.implementations["triton"]


@pytest.mark.slow
def test_a_machine_that_cannot_run_it_says_why():
    program = (
        "import sys\n"
        "from sparrow_kernels.ops.attention.ops import TREE_ATTENTION\n"
        "print(TREE_ATTENTION.unavailable('triton'), 'triton' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120,
        env={**os.environ, "TRITON_INTERPRET": "0", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert "no CUDA GPU (with TRITON_INTERPRET=1" in done.stdout
    assert done.stdout.endswith("False\n")


@pytest.mark.slow
@interpreted
def test_the_embedded_decoder_gives_the_same_text(monkeypatch):
    implementation = TREE_ATTENTION.implementations["triton"]
    function, calls = implementation.function, []
    monkeypatch.setattr(
        implementation, "function", lambda *args: (calls.append(1), function(*args))[1]
    )
    pair = load_pair()
    frames = render(make_clip(60, 1))
    question = "Describe the video in detail."
    inputs = clip_inputs(pair.processor, frames, FRAMES_PER_SECOND, question)
    texts = []
    for backend in ("reference", "triton"):
        with env.backend(backend):
            result = SparrowDecoder(pair.target, pair.draft).generate(**inputs, max_new_tokens=12)
        texts.append(result.sequences.tolist())
    assert texts[0] == texts[1] and len(calls) > 10


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.parametrize("case", [PLAIN, ANCHORED], ids=["plain", "anchored"])
def test_opcheck_on_a_gpu(case):
    arguments = on_gpu(op_arguments(replace(case, dtype=torch.bfloat16)))
    opcheck(TREE_ATTENTION, "auto", *arguments)
    out, lse = torch.empty_like(arguments[0]), torch.empty(arguments[0].shape[:3], device="cuda")
    opcheck(TREE_ATTENTION_OUT, "auto", *arguments, out, lse)


@pytest.mark.gpu
def test_compiles_into_one_graph():
    torch._dynamo.reset()
    compiled = torch.compile(tree_attention, fullgraph=True, dynamic=True)
    for size, length in ((5, 20), (7, 0), (11, 33)):
        arguments = on_gpu(Case([tree_bits(BUSHY[:size])], [length]).arguments())
        assert torch.equal(compiled(*arguments), tree_attention(*arguments))


@pytest.mark.gpu
@pytest.mark.parametrize("case", [PLAIN, ANCHORED], ids=["plain", "anchored"])
def test_a_captured_graph_follows_the_lengths(case):
    """And nothing synchronises."""
    case = replace(case, dtype=torch.bfloat16, capacity=2048)
    arguments, options = on_gpu((case.arguments(), case.options()))
    tree_attention(*arguments, **options)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.graph(graph):
            out, lse = tree_attention(*arguments, **options, return_lse=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for length in (1900, 3, 0, 700):
        arguments[4].fill_(length)
        if options["prefix_starts"] is not None:
            options["prefix_starts"].fill_(min(length, 2))
        graph.replay()
        wanted = tree_attention(*arguments, **options, return_lse=True)
        torch.cuda.synchronize()
        assert torch.equal(out, wanted[0]) and torch.equal(lse, wanted[1])


@pytest.mark.gpu
def test_two_streams():
    cases = [replace(PLAIN, seed=seed, prefix_lens=[33, 5 + seed]) for seed in range(2)]
    calls = [on_gpu((case.arguments(), case.options())) for case in cases]
    wanted = [tree_attention(*arguments, **options) for arguments, options in calls]
    streams = [torch.cuda.Stream() for _ in calls]
    torch.cuda.synchronize()
    for _ in range(50):
        results = []
        for stream, (arguments, options) in zip(streams, calls, strict=True):
            with torch.cuda.stream(stream):
                results.append(tree_attention(*arguments, **options))
        torch.cuda.synchronize()
        assert all(torch.equal(got, one) for got, one in zip(results, wanted, strict=True))


@pytest.mark.gpu
def test_dtypes_that_only_the_reference_has_are_named():
    arguments = on_gpu(replace(PLAIN, dtype=torch.float64).arguments())
    with pytest.raises(NotImplementedError, match="triton: it has no float64.*SPARROW_BACKEND"):
        tree_attention(*arguments)


@pytest.mark.parametrize("arch", [80, 90, configurations.UNFENCED])
@pytest.mark.parametrize("head_dim", [16, 64, 80, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_table_of_tiles(dtype, head_dim, arch):
    for anchored in (False, True):

        def rows_of(rows, fixed=False, anchored=anchored):
            return configurations.choose(arch, dtype, head_dim, anchored, rows, fixed).rows

        table = configurations.configurations(arch, dtype, head_dim, anchored)
        assert all(each.block_t <= 64 for each in table)
        for rows in (1, 16, 17, 56, 130, 210, 420, 5000):
            fewest = -(-rows // max(each.rows for each in table))
            assert -(-rows // rows_of(rows)) == fewest
            assert not any(rows <= fewest * each.rows < fewest * rows_of(rows) for each in table)
        assert len({rows_of(rows, fixed=True) for rows in (1, 56, 420)}) == 1


def test_splits_fill_the_gpu_evenly():
    wide = configurations.choose(90, torch.bfloat16, 128, False, 210, False)
    narrow = configurations.choose(90, torch.bfloat16, 128, False, 7, False)
    # What was fastest on an H200: 16 splits of two row tiles, 8 of four.
    assert configurations.split_count(wide, 8, 132, 25_664) == 16
    assert configurations.split_count(wide, 16, 132, 25_664) == 8
    assert configurations.split_count(wide, 8, 132, 256) == 1
    # One pass of the merge, and nothing to divide by.
    assert configurations.split_count(narrow, 4, 132, 1_000_000) == configurations.MOST_SPLITS
    assert configurations.split_count(wide, 0, 132, 25_664) >= 1
    # 272 programs are two waves and a bit: in one split, the bit takes a whole wave.
    waves = 272 * configurations.split_count(wide, 272, 132, 4_096) / 132
    assert waves / -(-waves // 1) > 0.7
    # A long request is not left to the few programs that a large batch gives each.
    assert configurations.split_count(wide, 256, 132, 25_664, batch=32) >= 25_664 / 128 / 32
    # One request alone has programs of one length: what evens them out decides.
    assert configurations.split_count(wide, 256, 132, 25_664) == 1


@pytest.mark.gpu
def test_tuning_keeps_the_fastest(monkeypatch):
    from sparrow_kernels.ops.attention.triton import tree_launch

    monkeypatch.setattr(env, "_autotune", True)
    case = Case([tree_bits(BUSHY)], [900], capacity=1024, dtype=torch.bfloat16)
    before = len(tree_launch._TUNED)
    case.check(case.run("cuda"))
    case.check(case.run("cuda"))
    assert len(tree_launch._TUNED) == before + 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this process compiles for its GPU")
@pytest.mark.skipif(sys.platform != "linux", reason="there is no triton but for Linux")
def test_the_interpreter_is_there() -> None:
    """Or every test of these kernels would be left out, and nobody would be told."""
    assert CANNOT_INTERPRET is None
