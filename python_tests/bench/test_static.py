"""The static table holds: no shipped kernel spills, all are listed, none has changed since.

CUDA kernels are read from the built library; of the Triton kernels a few are compiled here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from bench import devices, shipped, static, static_limits, static_table
from bench.shipped import ARCHITECTURES
from sparrow_kernels.ops.attention.triton import configurations

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m bench.static` where Triton compiles; the tests' own process interprets."""
    return subprocess.run(
        [sys.executable, "-m", "bench.static", *arguments],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )


def same_on_file(row: static_table.Row) -> bool:
    """The table's row of the same sources and compiler says the same, if there is one."""
    key = ("kernel", "arch", "compiler", "sources")
    table = static_table.read()
    return all(each == row for each in table if all(each[name] == row[name] for name in key))


CUDA = os.environ.get("SPARROW_BUILD_CUDA", "auto")


@pytest.mark.skipif(
    shutil.which("nvcc") is None or not (CUDA == "1" or (CUDA == "auto" and torch.version.cuda)),
    reason="no nvcc on PATH, or the CUDA kernels were not asked for",
)
def test_where_there_is_an_nvcc_the_cuda_kernels_are_built() -> None:
    assert shipped.cuda_unavailable() is None


@pytest.mark.slow
@pytest.mark.skipif(shipped.cuda_unavailable() is not None, reason=str(shipped.cuda_unavailable()))
def test_no_cuda_kernel_spills() -> None:
    kernels = list(shipped.cuda_kernels())
    assert [failure for each in kernels for failure in static_limits.kernel_failures(each)] == []
    text = "".join(path.read_text() for path in shipped.cuda_files())
    bounds = r"(?:__launch_bounds__\([^()]*\)\s*)?"
    written = set(re.findall(rf"__global__\s+void\s+{bounds}(\w+)\(", text))
    assert len(written) == text.count("__global__")
    for arch in ARCHITECTURES:
        names = [each.name for each in kernels if each.arch == arch]
        assert {name.partition("<")[0] for name in names} == written
        assert len(set(names)) == len(names), "two kernels share a name"
    for each in kernels:
        row = static.row_of(each, shipped.cuda_compiler(), shipped.cuda_digest())
        assert same_on_file(row), f"run: {static.COMMAND}"


@pytest.mark.slow
def test_a_few_triton_kernels_compile_without_a_spill(tmp_path: Path) -> None:
    """One shape of each kernel in float32 and bfloat16, for both architectures."""
    if not shipped.triton_compiler():
        pytest.skip("triton is not installed")
    table = tmp_path / "some.csv"
    done = run("--quick", "--table", str(table))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    rows = static_table.read(table)
    assert {row["arch"] for row in rows} == {"sm_80", "sm_90"}
    for row in rows:
        assert int(row["spill_bytes"]) == int(row["stack_bytes"]) == 0
        assert same_on_file(row), f"run: {static.COMMAND}"


@pytest.mark.slow
def test_the_table_lists_what_is_shipped() -> None:
    done = run("--check")
    assert done.returncode == 0, done.stdout
    assert "nothing to complain about" in done.stdout


WRONG = [
    (["--only", "["], "--only: '[' is no regular expression: unterminated character set"),
    (["--check", "--table", "nope.csv"], "--check: no table nope.csv"),
    (["--check", "--table", "README.md"], "README.md: not a table of bench.static"),
    (["--check", "--only", "D128"], "--only: not allowed with argument --check"),
    (["--only", "D64", "--quick"], "--quick: not allowed with argument --only"),
    (["--only", "zzzz", "--table", "/proc/nope/x.csv"], "No such file or directory"),
    (["--only", "zzzz", "--table", "bench/results/static.csv"], "static.csv is committed"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=lambda value: str(value)[:30])
def test_wrong_words_are_named(
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="2"):
        static.main(words)
    assert message in " ".join(capsys.readouterr().err.split())


def test_an_expression_that_finds_nothing_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("_cuda", "_triton"):
        monkeypatch.setattr(static, kind, lambda: KIND._replace(read=lambda keep: []))
    assert static.main(["--only", "zzzz"]) == 1
    assert "matches 'zzzz'" in capsys.readouterr().out


# --- every row of the table of tiles -------------------------------------------------------------

CASES = [
    case
    for case in product(
        (80, 90, configurations.UNFENCED),
        (torch.bfloat16, torch.float32),
        (64, 128, 256),
        (False, True),  # with anchors
        (None, "pages", "bias"),
        (False, True),  # in float8
    )
    if not case[5] or (case[0] != 80 and case[1] != torch.float32)  # refused
]


def test_every_configuration_is_compiled() -> None:
    """Of every case, by what a kernel is compiled with."""
    compiled = {
        arch: {
            (
                entry.signature["query_ptr"],
                *(entry.constexprs[name] for name in ("D", "BLOCK_M0", "BLOCK_M1", "BLOCK_N")),
                *(entry.constexprs["BLOCK_T"], entry.num_warps, entry.num_stages),
                *(name not in entry.constexprs for name in ("anchor_slots_ptr", "block_table_ptr")),
                *(name not in entry.constexprs for name in ("key_bias_ptr", "key_scale_ptr")),
            )
            for entry in shipped.triton_entries(arch)
            if entry.name.startswith("tree_attention")
        }
        for arch in ARCHITECTURES
    }
    for arch, dtype, head_dim, anchored, more, float8 in CASES:
        forms = (more is not None, more == "bias", float8)
        for each in configurations.configurations(arch, dtype, head_dim, anchored, *forms):
            query = "*bf16" if dtype == torch.bfloat16 else "*fp32"
            built = each[:-1]  # all but what is only counted with
            wanted = (query, head_dim, *built, anchored, more == "pages", more == "bias", float8)
            assert wanted in compiled[80 if arch == 80 else 90]


def test_as_many_programs_fit_as_the_table_says() -> None:
    """Of the plain ones; the others are split alike."""
    occupancy = {
        static_table.pair(row): float(row["occupancy"]) * 64 / (int(row["threads"]) / 32)
        for row in static_table.read()
        if row["compiler"].startswith("triton")
    }
    seen = 0
    for arch, dtype, head_dim, anchored, more, float8 in CASES:
        if more is not None or float8:
            continue
        for each in configurations.configurations(arch, dtype, head_dim, anchored):
            word = "bf16" if dtype == torch.bfloat16 else "fp32"
            rows = f"M{each.block_m0}" + (f"+{each.block_m1}" if each.block_m1 else "")
            name = f"tree_attention D{head_dim} {word} {rows}" + " anchors" * anchored
            on = 80 if arch == 80 else 90
            unfenced = occupancy.get((f"{name} unfenced", on))
            is_own = arch == configurations.UNFENCED and unfenced is not None
            fit = unfenced if is_own else occupancy[name, on]
            assert each.resident == pytest.approx(fit, abs=0.1), (arch, name)
            seen += 1
    assert seen >= 60


# --- the table itself ----------------------------------------------------------------------------


def row(name: str, arch: int, compiler: str, sources: str, **values: str) -> static_table.Row:
    blank = dict.fromkeys(static_table.COLUMNS, "0") | {"wait_distance": "2"}
    own = {"kernel": name, "arch": f"sm_{arch}", "compiler": compiler, "sources": sources}
    return blank | own | values


KIND = static.Kind("nvcc", "nvcc 2", None, lambda: {("a", 80): "x", ("a", 90): "y"}, None, list)
BOTH = [row("a", 80, "nvcc 2", "x"), row("a", 90, "nvcc 2", "y")]
AGAIN = "; run: python -m bench.static"


def test_a_whole_table_has_no_failures() -> None:
    older = [row("a", 80, "nvcc 1", "x"), row("a", 90, "nvcc 1", "y")]
    assert static.table_failures(BOTH + older, [KIND]) == []


def test_what_a_table_lacks_is_named() -> None:
    def failures(*table: static_table.Row) -> list[str]:
        return static.table_failures(table, [KIND])

    stale = "no longer shipped, or made from other sources, first"
    assert failures() == ["no nvcc kernel in the table" + AGAIN]
    assert failures(BOTH[0]) == ["nvcc 2: 1 not in the table, first a sm_90" + AGAIN]
    assert failures(*BOTH, BOTH[1]) == ["nvcc 2: 1 in the table twice, first a sm_90" + AGAIN]
    extra = row("b", 80, "nvcc 2", "x")
    assert failures(*BOTH, extra) == [f"nvcc 2: 1 {stale} b sm_80" + AGAIN]
    assert failures(BOTH[0] | {"sources": "z"}, BOTH[1]) == [f"nvcc 2: 1 {stale} a sm_80" + AGAIN]
    spilt = BOTH[1] | {"spill_bytes": "8"}
    assert failures(BOTH[0], spilt) == ["a sm_90 (nvcc 2): spills in the table"]
    for column, value, word in (("wait_distance", "0", "no overlap"), ("hazards", "2", "hazards")):
        (failure,) = failures(BOTH[0], BOTH[1] | {column: value})
        assert failure == f"a sm_90 (nvcc 2): {word} in the table"
    (failure,) = failures(BOTH[0] | {"smem_bytes": "101392"}, BOTH[1])
    assert failure.startswith("a sm_80 (nvcc 2): shared memory in the table, more than the 99 KB")


def test_a_loop_that_streams_a_cache_has_enough_on_its_way() -> None:
    def failures(name: str, arch: int, ahead: int) -> list[str]:
        planted = row(name, arch, "nvcc 2", "x", bytes_in_flight=str(ahead))
        kind = KIND._replace(shipped=lambda: {(name, arch): "x"})
        return static.table_failures([planted], [kind])

    for arch in (80, 90):
        enough = devices.bytes_to_cover_latency(arch)
        assert failures("tree_attention D64 bf16 M16", arch, enough) == []
        (short,) = failures("tree_attention D64 bf16 M16", arch, enough - 1)
        assert "too little on its way" in short
        assert failures("tree_attention D64 bf16 M16 anchors", arch, 1) == []


def test_where_kernels_cannot_be_seen_their_sources_still_can() -> None:
    blind = KIND._replace(unavailable="no nvcc", shipped=lambda: pytest.fail("was asked"))
    assert static.table_failures(BOTH, [blind]) == []
    (failure,) = static.table_failures(BOTH, [blind._replace(digest="x")])
    assert "first a sm_90" in failure


def test_rows_of_another_compiler_stay_while_they_hold() -> None:
    table = [
        row("a", 80, "nvcc 2", "old"),
        row("a", 80, "nvcc 1", "x"),
        row("a", 90, "nvcc 1", "z"),
    ]
    table.append(row("a", 80, "triton 3", "x"))
    triton = KIND._replace(name="triton", unavailable="not installed")
    assert static.merged(table, BOTH, [KIND, triton]) == [table[1], *BOTH, table[3]]
    assert static.merged(table, [], [KIND, triton]) == [table[1], table[3]]


def test_only_code_counts_as_a_change(tmp_path: Path) -> None:
    path = tmp_path / "a.cu"
    path.write_text("// says why\nint a;\n")
    before = shipped.digest([path])
    path.write_text("\n  // says more\nint a;\n\n")
    assert shipped.digest([path]) == before
    assert shipped.digest([path], "also") != before
    path.write_text("int b;\n")
    assert shipped.digest([path]) != before


def test_a_few_are_one_of_each() -> None:
    names = [
        "a D128 bf16 M16",
        "a D128 bf16 M64",
        "a D128 fp32 M16",
        "a D64 bf16 M16",
        "b D128 bf16",
    ]
    assert static.few((name, 80) for name in names) == [(names[n], 80) for n in (0, 2, 4)]
    assert len(static.few((name, arch) for name in names for arch in (80, 90))) == 6


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [row("f<float, 8>", 90, "nvcc 13.0.88", "abc", occupancy="0.500")]
    static_table.write(tmp_path / "deep/table.csv", rows)
    assert static_table.read(tmp_path / "deep/table.csv") == rows
    first = (tmp_path / "deep/table.csv").read_text().splitlines()[0]
    assert first.startswith(
        "kernel,arch,registers,smem_bytes,stack_bytes,spill_bytes,tensor_core_ops,async_copies,"
        "occupancy"
    )
