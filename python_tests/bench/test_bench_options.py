"""Wrong command lines of the benchmarks: refused before anything is made or measured."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import bench
from bench import options, plot
from sparrow_kernels.models import pair

ROOT = Path(__file__).resolve().parents[2]
WRONG = [
    ("ablation.__main__", ["--steps", "-1"], "--steps: must be a whole number from 1 on"),
    ("ablation.__main__", ["--csv", "/proc/nope/found.csv"], "--csv: cannot be written"),
    ("decoding", ["--repeats", "0"], "--repeats: must be a whole number from 1 on, got '0'"),
    (
        "demo",
        ["--quick", "--json", "/proc/nope/found.json"],
        "--json: cannot be written: [Errno 2]",
    ),
    ("demo", ["--quick", "--json", "/proc"], "--json: cannot be written: [Errno 21]"),
    ("drafts", ["--steps", "0"], "--steps: must be a whole number from 1 on"),
    ("evaluation", ["--clips", "0"], "--clips: must be a whole number from 1 on"),
    ("evaluation", ["--visual-tokens", "3", "500"], "--visual-tokens: must be 28 or more, got 3"),
    ("evaluation", ["--visual-tokens", "99999"], "must be at most 31680, got 99999"),
    (
        "evaluation",
        ["--world", "harder", "--visual-tokens", "19"],
        "--visual-tokens: must be 20 or more, got 19 (clips of the harder world)",
    ),
    ("decoding", ["--visual-tokens", "27"], "--visual-tokens: must be 28 or more, got 27"),
    ("lossless", ["--visual-tokens", "27"], "--visual-tokens: must be 28 or more, got 27"),
    ("lossless", ["--clips", "9" * 5000], "--clips: must be at most 1,000,000,000, got '999"),
    ("lossless", ["--clips", "9" * 20], "--clips: must be at most 1,000,000,000, got"),
    ("lossless", ["--clips", "0"], "--clips: must be a whole number from 1 on, got '0'"),
    ("lossless", ["--trees", "6-5-1", "oak"], "--trees: tree must be total-depth-width such as"),
    ("page_floor", ["--seconds", "-1"], "--seconds: must be seconds from 0 on, got '-1'"),
    ("real_language.__main__", ["--prompts", "0"], "--prompts: must be a whole number from 1 on"),
    *(
        ("run", ["--all", "--list", "--name", name], f"--name: must be a name alone, got {name!r}")
        for name in ("", ".", "..", "../x", "/tmp/x", "folder/x", "x/", "x\0y")
    ),
    ("real_language.__main__", ["--prompts", "41"], "--prompts: must be at most 40, got '41'"),
    ("step", ["--tiny", "--slots", "32641"], "--slots: must be at most 32,640, got 32641"),
    ("step", ["--tiny", "--family", "oak"], "--family: invalid choice: 'oak'"),
    ("step", ["--tiny", "--slots", "-3"], "--slots: must be a whole number from 1 on, got '-3'"),
    ("warm", ["ours", "--family", "oak"], "--family must be of tree, accept"),
    ("warm", ["ours", "--processes", "0"], "--processes: must be a whole number from 1 on"),
]


@pytest.mark.parametrize(("name", "words", "message"), WRONG)
def test_wrong_words_are_named(
    name: str,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = import_module(f"bench.{name}")
    monkeypatch.setattr(sys, "argv", ["somewhere.py", *words])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_torch_is_loaded_after_what_it_reads_is_set() -> None:
    code = "import sys, bench.ablation.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_a_file_to_write_is_left_as_it_is(tmp_path: Path) -> None:
    there = tmp_path / "there.json"
    there.write_text("before")
    assert options.to_write(str(there)) == there and there.read_text() == "before"
    new = tmp_path / "folder" / "new.json"
    assert options.to_write(str(new)) == new and not new.exists()


class TestWithoutMatplotlib:
    @pytest.fixture(autouse=True)
    def as_if_it_were_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in sys.modules if name.startswith(("matplotlib", "bench.plot"))]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monkeypatch.setattr(bench, "plot", plot)  # put back, once it was imported anew

    def test_plots_say_in_a_line_what_to_install(self, capsys: pytest.CaptureFixture[str]) -> None:
        anew = import_module("bench.plot")
        with pytest.raises(SystemExit) as ended:
            anew.main(["found.csv"])
        assert ended.value.code == 1
        assert capsys.readouterr().err == (
            "python -m bench.plot: no plots: matplotlib is not installed"
            " (pip install 'sparrow-kernels[bench]')\n"
        )

    def test_a_plot_of_the_ablation_is_refused_before_its_hours(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        words = ["--plot", str(tmp_path / "found.png"), "--folder", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["somewhere.py", *words])
        monkeypatch.setattr(pair, "load_target", None)  # what would begin them
        with pytest.raises(SystemExit) as ended:
            import_module("bench.ablation.__main__").main()
        assert ended.value.code == 2
        assert "--plot: matplotlib is not installed (pip" in capsys.readouterr().err
