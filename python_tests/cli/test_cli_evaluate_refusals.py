"""What `sparrow evaluate` refuses, by name and before anything is measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("av")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

from evaluate_cases import pair, written  # noqa: E402

from sparrow_kernels.cli import evaluate, main  # noqa: E402
from sparrow_kernels.cli.videos import files  # noqa: E402
from sparrow_kernels.measuring import by_length  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture(autouse=True)
def nothing_printed_yet(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()  # transformers' bars while saving


def refused(capsys: pytest.CaptureFixture[str], *words: str, status: int = 2) -> str:
    assert main(["evaluate", *words]) == status
    captured = capsys.readouterr()
    assert (captured.out == "") == ("--json" not in words) and captured.err.count("\n") == 1
    return captured.err.removeprefix("sparrow: error: ").strip()


class TestClips:
    def test_files_and_folders(self, folder: Path) -> None:
        inside = [folder / "clips" / name for name in ("a.mp4", "b.mp4", "short.mp4")]
        assert files([str(folder / "clips")]) == inside
        assert files([str(inside[2]), str(inside[0])]) == [inside[2], inside[0]]

    @pytest.mark.parametrize("word", ["0", "10001", "-1", "+2"])
    def test_a_number_beyond_its_limits(
        self, word: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        message = refused(capsys, f"--clips={word}")
        assert "--clips: must be a whole number from 1 to 10000, got " in message

    def test_a_clip_named_twice(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        clip = str(folder / "clips" / "a.mp4")
        said = refused(capsys, "--clips", clip, clip, status=2)
        assert f"--clips: must name each clip once, got {clip} twice" in said

    def test_what_is_no_video(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        broken = tmp_path / "broken.mp4"
        broken.write_text("no video")
        clip, empty = str(folder / "clips" / "a.mp4"), tmp_path / "empty"
        empty.mkdir()
        for words, said in [
            (["none.mp4"], "clip none.mp4 does not exist"),
            ([clip, "3"], "clip 3 does not exist"),
            ([str(empty)], f"folder {empty} holds no video"),
            ([clip, str(folder / "clips")], f"clip {clip} is named twice"),
            ([str(broken)], f"clip {broken} cannot be read as a video"),
            (["https://host/a.mp4"], "got the URL https://host/a.mp4 (download it first)"),
        ]:
            assert said in refused(capsys, "--clips", *words, status=1)

    def test_a_damaged_file_does_not_cost_the_others(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("a.mp4", "c.mp4", "z.mp4"):
            (tmp_path / name).write_text("no video")
        (tmp_path / "b.mp4").write_bytes((folder / "clips" / "short.mp4").read_bytes())
        words = [*pair(folder, "qwen3_vl"), "--clips", str(tmp_path), "--question", "Why?"]
        words += ["--max-new-tokens", "4", "--repeats", "1", "--json"]
        assert main(["evaluate", *words]) == 1
        captured = capsys.readouterr()
        report = json.loads(captured.out)
        assert [row["clip"] for row in report["rows"]] == ["all", "b.mp4"]
        assert [one["clip"] for one in report["left_out"]] == ["a.mp4", "c.mp4", "z.mp4"]
        first, *_, last = captured.err.splitlines()
        assert first.startswith("sparrow: error: a.mp4 is left out: clip ")
        assert last == "sparrow: error: 3 of 4 clips could not be read, and are left out"
        (tmp_path / "b.mp4").unlink()
        message = refused(capsys, *words[:-1], status=1)
        assert message.startswith(f"clip {tmp_path}/a.mp4 cannot be read as a video")
        assert message.endswith("(and 2 more that cannot be read)")


class TestRefusals:
    @pytest.fixture(autouse=True)
    def loads_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sparrow_kernels.cli.question.load_decoder", None)

    def test_lengths_that_generated_clips_cannot_have(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for length, said in [("9", "must be 28 or more, got 9"), ("99999", "must be at most")]:
            assert f"visual_tokens {said}" in refused(capsys, "--lengths", "500", length)

    def test_files_that_cannot_be_written(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        clip = str(folder / "clips" / "a.mp4")
        (tmp_path / "folder.csv").mkdir()
        for words, said in [
            (["--csv", f"{tmp_path}/no/a.csv"], "--csv: must be in a folder that exists"),
            (["--csv", clip], "--csv: must be a file that ends in .csv"),
            (["--csv", f"{tmp_path}/folder.csv"], "--csv: must be a file that ends in .csv"),
            (["--plot", f"{tmp_path}/a.svg"], "--plot: must be a file that ends in .png"),
        ]:
            assert said in refused(capsys, "--clips", clip, *words)

    def test_files_that_would_be_overwritten(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(evaluate, "_run", lambda *_: 0)
        for option, name in (("--csv", "a.csv"), ("--plot", "a.png")):
            (tmp_path / name).write_text("mine")
            words = [option, str(tmp_path / name)]
            said = f"{option} must be new, got {tmp_path / name}, which exists (--force overwrites"
            assert refused(capsys, *words).startswith(said)
            assert main(["evaluate", *words, "--force"]) == 0

    def test_a_plot_without_matplotlib(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        said = "a plot needs matplotlib, which is not installed (pip install matplotlib)"
        assert refused(capsys, "--plot", str(tmp_path / "a.png"), status=1) == said

    def test_what_does_not_go_together(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        clip = str(folder / "clips" / "a.mp4")
        for words, said in [
            (["--clips", clip, "--quick"], "--quick must be left out with video files"),
            (["--clips", clip, "--answers"], "--answers must be left out with video files"),
            (["--clips", "1", "--answers"], "--clips must be at least 2, got 1"),
            (["--answers", "--json"], "--json must be left out with --answers"),
            (["--answers", "--question", "Why?"], "--question must be left out with --answers"),
        ]:
            assert said in refused(capsys, *words)


def test_a_length_that_no_file_reaches_is_refused_before_any_is_measured(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_length, "compare", None)
    words = [*pair(folder, "qwen3_vl"), "--clips", str(folder / "clips"), "--lengths"]
    message = refused(capsys, *words, "8", "5000", status=1)
    assert message.startswith("no clip comes near 5000 visual tokens (a.mp4: it reaches ")
    message = refused(capsys, *words, "1", status=1)
    assert "(a.mp4: at its shortest, 2 frames, it has 4;" in message


def test_generated_clips_are_refused_for_a_target_that_sees_other_tokens_in_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*pair(folder, "llava_onevision"), "--clips", "1", "--lengths", "40"]
    message = refused(capsys, *words, status=1)
    assert "clips must be video files for this target" in message
