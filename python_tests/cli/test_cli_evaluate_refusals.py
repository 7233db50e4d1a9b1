"""What `sparrow evaluate` refuses, by name and before anything is measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("av")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

from evaluate_cases import pair, written  # noqa: E402

from sparrow_kernels.cli import main  # noqa: E402
from sparrow_kernels.cli.videos import clips  # noqa: E402
from sparrow_kernels.measuring import by_length  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture(autouse=True)
def nothing_printed_yet(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()  # transformers' bars while saving


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["evaluate", *words]) == 2
    captured = capsys.readouterr()
    assert (captured.out == "") == ("--json" not in words) and captured.err.count("\n") == 1
    return captured.err.removeprefix("sparrow: error: ").strip()


class TestClips:
    def test_files_folders_and_numbers(self, folder: Path) -> None:
        inside = [folder / "clips" / name for name in ("a.mp4", "b.mp4", "short.mp4")]
        assert clips([str(folder / "clips")]) == inside
        assert clips([str(inside[2]), str(inside[0])]) == [inside[2], inside[0]]
        assert clips(["007"]) == 7

    @pytest.mark.parametrize("word", ["0", "10001", "-1", "+2"])
    def test_a_number_beyond_its_limits(
        self, word: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        message = refused(capsys, f"--clips={word}")
        assert "--clips: must be a whole number from 1 to 10000, got " in message

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
            assert said in refused(capsys, "--clips", *words)


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

    def test_a_plot_without_matplotlib(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        said = "a plot needs matplotlib, which is not installed (pip install matplotlib)"
        assert refused(capsys, "--plot", str(tmp_path / "a.png")) == said

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
    message = refused(capsys, *words, "8", "5000")
    assert message.startswith("no clip comes near 5000 visual tokens (a.mp4: it reaches ")
    message = refused(capsys, *words, "1")
    assert "(a.mp4: at its shortest, 2 frames, it has 4;" in message


def test_generated_clips_are_refused_for_a_target_that_sees_other_tokens_in_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*pair(folder, "llava_onevision"), "--clips", "1", "--lengths", "40"]
    assert "clips must be video files for this target" in refused(capsys, *words)
