"""`sparrow` and its commands, called as a program calls them: `main([...])`."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparrow_kernels import __version__
from sparrow_kernels.cli import environment, main
from sparrow_kernels.embedded.draft_recipe import DraftRecipe
from sparrow_kernels.embedded.worlds import EASY, HARDER
from sparrow_kernels.training.workers import Workers

ROOT = Path(__file__).resolve().parents[2]


def one_line_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The error text; fails unless stdout is empty and stderr is one `sparrow: error:` line."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sparrow: error: ")
    assert captured.err.endswith("\n") and captured.err.count("\n") == 1
    return captured.err.removeprefix("sparrow: error: ").strip()


def test_version_and_help_import_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from sparrow_kernels.cli import main\n"
        "assert main(['--version']) == 0 and main(['generate', '--help']) == 0\n"
        "heavy = {'torch', 'transformers', 'triton', 'numpy', 'av'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"sparrow {__version__}\n")
    assert "30-4-8" in done.stdout


@pytest.mark.parametrize(
    "words, said",
    [
        (["foo"], "invalid choice: 'foo'"),
        (["generate"], "required: CLIP.mp4, QUESTION"),
        (["generate", "a.mp4", "why", "--tree", "30-4"], "total-depth-width such as 30-4-8"),
        (["generate", "a.mp4", "why", "--tree", "99-1-8"], "total must be at most 9"),
        (["generate", "a.mp4", "why", "--fps", "3"], "2 divided by a whole number, got 3"),
        (["generate", "a.mp4", "why", "--temperature", "-1"], "number of at least 0, got '-1'"),
        (["generate", "a.mp4", "why", "--temperature", "nan"], "number of at least 0, got 'nan'"),
        (["generate", "a.mp4", "why", "--max-new-tokens", "0"], "from 1 to 1000000000, got '0'"),
        (["generate", "a.mp4", "why", "--seed", "x"], "from 0 to 18446744073709551615, got 'x'"),
        (
            ["generate", "a.mp4", "why", "--jso"],
            "unrecognized arguments: --jso (see sparrow generate --help)",
        ),
        (
            ["draft", "inspect", "d", "--foo"],
            "unrecognized arguments: --foo (see sparrow draft inspect --help)",
        ),
        (["generate", "a.mp4", "-"], "standard input is not read"),
        (["clip", "a.mp4", "--visual-tokens", "-5"], "from 1 to 1000000000, got '-5'"),
        (["train", "teacher"], "invalid choice: 'teacher'"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # a checkout may be read-only, and that is another refusal
    assert main(words) == 2
    message = one_line_error(capsys)
    assert said in message
    assert message.endswith("--help)")


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("generate", "clip", "train", "evaluate", "env", "bench"))


class TestClip:
    @pytest.fixture(autouse=True)
    def needs_av(self) -> None:
        pytest.importorskip("av")

    def test_writes_the_clip_of_a_seed_and_what_it_shows(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from sparrow_kernels.embedded.captions import description
        from sparrow_kernels.embedded.clips import make_clip, read_mp4

        script = make_clip(60, 5)
        assert main(["clip", str(tmp_path / "a.mp4"), "--visual-tokens", "60", "--seed", "5"]) == 0
        assert f"{script.visual_tokens} visual tokens" in capsys.readouterr().out
        assert (tmp_path / "a.txt").read_text() == description(script) + "\n"
        frames, fps = read_mp4(tmp_path / "a.mp4")
        assert (len(frames), fps) == (script.frames, 2.0)
        assert sorted(file.name for file in tmp_path.iterdir()) == ["a.mp4", "a.txt"]

        words = [str(tmp_path / "b.mp4"), "--visual-tokens", "60", "--world", "harder"]
        assert main(["clip", *words]) == 0
        assert (tmp_path / "b.txt").read_text().startswith("The video shows this.")

    def test_a_failure_leaves_nothing_new_and_nothing_changed(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (tmp_path / "a.mp4").write_text("mine")

        def full_disk(path: Path, frames: Any) -> None:
            Path(path).write_bytes(b"half a clip")
            raise OSError(28, "No space left on device", str(path))

        monkeypatch.setattr("sparrow_kernels.embedded.clips.write_mp4", full_disk)
        out = tmp_path / "a.mp4"
        assert main(["clip", str(out), "--visual-tokens", "60", "--force"]) == 1
        assert one_line_error(capsys) == f"No space left on device: {out}"
        assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]
        assert out.read_text() == "mine"

    @pytest.mark.parametrize("mine", ["a.mp4", "a.txt"])
    def test_overwrites_when_told_to(
        self, mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / mine).write_text("mine")
        words = ["clip", str(tmp_path / "a.mp4"), "--visual-tokens", "60"]
        assert main(words) == 2
        said = f"OUT must be new, got {tmp_path / mine}, which exists (--force overwrites it)"
        assert one_line_error(capsys) == said
        assert [file.name for file in tmp_path.iterdir()] == [mine]
        assert main([*words, "--force"]) == 0
        assert (tmp_path / mine).read_bytes() != b"mine"

    def test_refusals(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "b.txt").mkdir()
        for out, said in [
            ("a.avi", "argument OUT.mp4: must be a file that ends in .mp4"),
            ("no/such/a.mp4", "must be in a folder that exists"),
            ("b.mp4", "b.txt, which is a folder"),
        ]:
            assert main(["clip", str(tmp_path / out)]) == 2
            assert said in one_line_error(capsys)
        for tokens, said in [("4", "must be 28 or more"), ("9999999", "must be at most")]:
            out = str(tmp_path / "a.mp4")
            assert main(["clip", out, "--visual-tokens", tokens]) == 2
            assert said in one_line_error(capsys)
        assert [file.name for file in tmp_path.iterdir()] == ["b.txt"]


class TestTrain:
    def test_hands_over_to_the_trainers(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        pytest.importorskip("transformers")
        calls: list[Any] = []
        for trainer in ("target.run.train_target", "draft.train_draft"):
            monkeypatch.setattr(
                f"sparrow_kernels.training.{trainer}", lambda *a, **k: calls.append((a, k))
            )
        monkeypatch.setattr(
            "sparrow_kernels.models.pair.load_target",
            lambda where, world: (SimpleNamespace(where=where, config=None), "processor"),
        )
        monkeypatch.setattr("sparrow_kernels.cli.train.check_target", lambda target: None)
        monkeypatch.setattr(
            "sparrow_kernels.training.small_target.check_small_target", lambda target: None
        )
        out = tmp_path / "out"
        assert main(["train", "target", "--out", str(out), "--fresh"]) == 0
        assert main(["train", "target", "--out", str(out), "--world", "harder"]) == 0
        asked = ["--target", "t", "--seed", "3", "--mode", "msd", "--steps", "7"]
        assert main(["train", "draft", "--out", str(out), *asked]) == 0
        recipe = replace(DraftRecipe(), steps=7)
        assert calls == [
            ((out,), {"resume": False, "seed": 0, "world": EASY}),
            ((out,), {"resume": True, "seed": 0, "world": HARDER}),
            (
                (SimpleNamespace(where=Path("t"), config=None), "processor", out),
                {
                    **{"resume": True, "seed": 3, "recipe": recipe, "mode": "msd"},
                    **{"sees_clip": None, "workers": Workers()},
                },
            ),
        ]

    def test_refusals(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "file"
        file.write_text("")
        assert main(["train", "target", "--out", str(file)]) == 2
        assert "--out must be a folder" in one_line_error(capsys)
        assert main(["train", "target", "--target", "x"]) == 2
        assert "unrecognized arguments: --target x (see sparrow train target --help)" in (
            one_line_error(capsys)
        )
        for command in (["train", "draft"], ["generate", str(file), "What?"], ["evaluate"]):
            assert main([*command, "--target", "x", "--world", "harder"]) == 2
            assert "--world must be left out with --target" in one_line_error(capsys)


def test_an_unexpected_error_is_one_line_unless_a_traceback_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(environment, "describe", broken)
    assert main(["env"]) == 1
    assert one_line_error(capsys) == "RuntimeError: two lines (SPARROW_TRACEBACK=1 shows where)"
    monkeypatch.setenv("SPARROW_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        main(["env"])


@pytest.mark.parametrize(
    "words, status, said",
    [
        (["generate", "no.mp4", "What?"], 1, "clip no.mp4 does not exist"),
        (["generate", "-", "What?"], 2, "clip must be a file, got -, standard input"),
        (["generate", "no.mp4"], 2, "required: QUESTION (see sparrow generate --help)"),
    ],
)
def test_an_error_is_json_for_who_asked_for_it(
    words: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--json"]) == status
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert said in report["error"] and report["status"] == status
    assert shown.err == f"sparrow: error: {report['error']}\n"
    assert main(words) == status
    assert capsys.readouterr().out == ""


def test_text_is_no_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """FFmpeg would show its letters."""
    pytest.importorskip("av")
    notes = tmp_path / "notes.txt"
    notes.write_text("What happened, line by line.\n" * 2000)
    assert main(["generate", str(notes), "What happens?"]) == 1
    assert one_line_error(capsys) == f"clip must be a video, got text in {notes}"
