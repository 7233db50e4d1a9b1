"""Numbers in README and docs are those of the result files, and none was typed by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bench_cases import row

from bench import records, rows, static_table, tables
from bench.rows import COLUMNS, Row

PAGES = [path for path in tables.documents() if path.name in ("README.md", "benchmarks.md")]


@pytest.mark.parametrize("path", tables.documents(), ids=lambda path: path.name)
def test_a_page_says_what_the_files_say(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert tables.rendered(text) == text, "stale: python -m bench.tables"


GENERATED = re.compile(
    r"<!-- begin: bench\.tables .*?<!-- end: bench\.tables -->|"
    r"<!-- number: .*?<!-- /number -->|```.*?```",
    re.DOTALL,
)
MEASURED = re.compile(r"\d\s*(?:µs|us\b|ms\b|GB/s|TB/s|TFLOP|×)")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_time_was_typed_by_hand(path: Path) -> None:
    typed = GENERATED.sub("", path.read_text(encoding="utf-8"))
    lines = [line for line in typed.splitlines() if MEASURED.search(line)]
    # A limit that the method sets is no result.
    assert [line for line in lines if "5 µs is not quoted" not in line] == []


def test_every_column_is_explained() -> None:
    text = (tables._ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert all(f"`{column}`" in text for column in COLUMNS)


def file(folder: Path, name: str, *found: Row) -> None:
    writer = rows.Writer(folder / name)
    writer.write(found)
    writer.close()


WHAT = "bench-cpu.csv | op=build_tree; case=T=64 B=1; backend=native | us_p50 | .1f"


class TestNumbers:
    def test_a_number_comes_from_its_row(self, tmp_path: Path) -> None:
        file(tmp_path, "bench-cpu", row(us=12.34), row(backend="reference", us=99.0))
        text = f"It takes <!-- number: {WHAT} -->7<!-- /number --> µs, not more."
        anew = tables.rendered(text, tmp_path)
        assert anew == f"It takes <!-- number: {WHAT} -->12.3<!-- /number --> µs, not more."
        assert tables.rendered(anew, tmp_path) == anew
        file(tmp_path, "bench-cpu", row(us=55.51))
        assert ">55.5<" in tables.rendered(anew, tmp_path)

    def test_a_row_that_is_not_there_is_an_error(self, tmp_path: Path) -> None:
        file(tmp_path, "bench-cpu", row(), row(inputs="cold"))
        with pytest.raises(ValueError, match=r"bench-cpu\.csv: 2 rows have op=build_tree"):
            tables.number(WHAT, tmp_path)
        with pytest.raises(ValueError, match="0 rows have op=other"):
            tables.number("bench-cpu.csv | op=other | us_p50 | .1f", tmp_path)
        with pytest.raises(ValueError, match="no us_p99"):
            tables.number("bench-cpu.csv | inputs=cold | us_p99 | .1f", tmp_path)
        with pytest.raises(ValueError, match="FILE | WORD=VALUE"):
            tables.number("bench-cpu.csv | us_p50", tmp_path)

    def test_a_file_that_is_not_there_was_not_measured(self, tmp_path: Path) -> None:
        assert tables.number(WHAT, tmp_path) == "not yet measured"

    def test_rows_of_other_programs(self, tmp_path: Path) -> None:
        records.write(tmp_path / "demo.json", "bench.demo", [{"visual_tokens": 496, "x": 2.577}])
        assert tables.number("demo.json | visual_tokens=496 | x | .2f", tmp_path) == "2.58"
        record = records.read(tmp_path / "demo.json")
        assert record.machine["command"].startswith("python -m bench.demo")
        (tmp_path / "other.json").write_text("[]")
        with pytest.raises(ValueError, match=r"other\.json: not a record"):
            records.read(tmp_path / "other.json")


def block(name: str, folder: Path) -> str:
    text = f"<!-- begin: bench.tables {name} -->\nold\n<!-- end: bench.tables -->"
    anew = tables.rendered(text, folder)
    assert tables.rendered(anew, folder) == anew
    return anew


class TestBlocks:
    def test_nothing_measured_says_so_and_how(self, tmp_path: Path) -> None:
        for name in ("ops-cpu", "losses-cpu"):
            assert "Not yet measured (`python -m bench.run --all" in block(name, tmp_path)
        for name in ("ops-cuda", "losses-cuda"):
            assert "Not yet measured (`bench/gpu_suite.sh`)" in block(name, tmp_path)
        assert "Not yet measured (`python -m bench.demo" in block("demo", tmp_path)
        assert block("speed-goals", tmp_path).count("not measured") > 15
        assert block("decoding", tmp_path).count("not yet measured") > 10

    def test_an_unknown_block_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no block nothing: there are demo"):
            block("nothing", tmp_path)

    def test_ops_and_losses(self, tmp_path: Path) -> None:
        peer = row(backend="torch, compiled", ours=False, us=5.0)
        other = row(case="T=8 B=1", backend="reference", us=1234.5)
        file(tmp_path, "bench-cpu", row(), peer, other, row(backend="reference", us=50.0))
        shown = block("ops-cpu", tmp_path)
        assert "`python -m bench.run --all`; a device; torch" in shown
        assert (
            "| `build_tree` | T=64 B=1 | int32 | hot | native | 10 (9.75–10.2) | 80 |"
            " torch, compiled | 0.50 (0.48–0.53) |" in shown
        )
        assert "| `build_tree` | T=8 B=1 | int32 | hot | reference | 1,234 (1,204–1,265)" in shown
        assert "Not yet measured" in block("ops-cuda", tmp_path)
        file(tmp_path, "bench-draft", row(us=3.0, cuda="13.0", driver="1.2"))
        on_gpu = block("ops-cuda", tmp_path)
        assert "driver 1.2, CUDA 13.0" in on_gpu and "| 3 (2.92–3.08) |" in on_gpu
        assert "| at most 4 µs | 3.00 µs | met |" in block("speed-goals", tmp_path)
        assert block("ops-cpu", tmp_path) == shown
        lost = block("losses-cpu", tmp_path)
        assert "| torch, compiled | 5 (4.88–5.12) | 0.50 (0.48–0.53) |" in lost
        assert "T=8" not in lost

    def test_a_doubted_ratio_is_marked(self, tmp_path: Path) -> None:
        peer = row(backend="torch", ours=False, us=5.0, others_percent=40.0)
        file(tmp_path, "bench-cpu", row(), peer)
        shown = block("ops-cpu", tmp_path)
        assert "| 0.50 (0.48–0.53) (not to be believed) |" in shown
        assert "`build_tree`, T=64 B=1, torch: others took 40 % of the processors." in shown

    def test_a_time_outside_its_prediction_is_listed(self, tmp_path: Path) -> None:
        found = [row(us=us, inputs=inputs, cuda="13.0", device="NVIDIA H100 80GB HBM3")
                 for us, inputs in ((3.0, "hot"), (99.0, "cold"))]  # fmt: skip
        file(tmp_path, "bench-trees", *found, row(us=99.0, backend="torch", ours=False))
        shown = block("predictions-missed", tmp_path)
        assert "1 of 2 times lie outside the range that is predicted now." in shown
        assert shown.count("| `build_tree` | T=64 B=1 | 99 | 1.98–4.12 |") == 1

    def test_what_the_compiler_made_of_a_tile(self, tmp_path: Path) -> None:
        def line(name: str, compiler: str = "triton 3.10.0", **values: str) -> static_table.Row:
            usual = {"arch": "sm_90", "registers": "80", "smem_bytes": "53248", "threads": "128",
                     "occupancy": "0.188", "issue_cycles": "624"}  # fmt: skip
            own = {"kernel": f"tree_attention {name}", "compiler": compiler}
            return dict.fromkeys(static_table.COLUMNS, "") | usual | own | values

        table = [line("D128 bf16 M64", registers="172"), line("D128 bf16 M16")]
        table += [line("D128 bf16 M64", "triton 3.9.0"), line("D128 bf16 M64 pages")]
        table.append(line("D64 fp32 M32 anchors", arch="sm_80"))
        table.append(line("D128 bf16 M16 float8", registers="146"))
        static_table.write(tmp_path / "static.csv", table)
        shown = block("tree-registers", tmp_path).splitlines()
        assert shown[3] == "| D 128, bf16 | 16: 80, 52, 3; 64: 172, 52, 3 | – |"
        assert shown[4] == "| D 64, fp32, anchors | – | 32: 80, 52, 3 |"
        turn = block("float8-turns", tmp_path).splitlines()[3]
        assert turn.startswith("| 16 | 64 | 624 | 624 | 146, 52 KB | 624 | 624 | 1,405 / 980 |")

    def test_a_record_says_what_it_was_made_from(self, tmp_path: Path) -> None:
        records.write(tmp_path / "drafts.json", "bench.drafts", [])
        text = (tmp_path / "drafts.json").read_text()
        for dirty in ("false", "true"):
            changed = re.sub('"dirty": (true|false)', f'"dirty": {dirty}', text)
            (tmp_path / "drafts.json").write_text(changed)
            shown = block("drafts", tmp_path)
            assert "threads; torch" in shown and ("and changes" in shown) == (dirty == "true")

    def test_goals_of_decoding(self, tmp_path: Path) -> None:
        found = [{"tree": "6-5-1", "clips": 100, "identical": count} for count in (100, 99)]
        records.write(tmp_path / "lossless.json", "bench.lossless", found)
        assert "| 199 of 200 | `python -m bench.lossless` | missed |" in block("decoding", tmp_path)

    def test_a_clip_of_another_length_is_not_judged(self, tmp_path: Path) -> None:
        def judged(length: int) -> str:
            found = [{"visual_tokens": length, "speedup_plain": 2.5, "speedup_generate": 2.5,
                      "ms_a_token_plain": 2.0, "ms_a_token_generate": 2.5,
                      "draft_ms_a_call": 1.0, "kv_over_needed": 1.06}]  # fmt: skip
            records.write(tmp_path / "demo.json", "bench.demo", found)
            return block("decoding", tmp_path)

        assert "24k visual tokens: at least 2.0 | - | `make demo` | not yet" in judged(496)
        assert "at least 1.5, aim 1.8 | 2.50 | `make demo` | met |" in judged(496)
        shown = judged(24_048)
        assert "24k visual tokens: at least 2.0 | 2.50 | `make demo` | met |" in shown
        assert "as it comes, 24k: at least 2.8 | 2.50 | `make demo` | missed |" in shown
        assert "at most 1.05 | 1.060 | `make demo` | missed |" in shown
