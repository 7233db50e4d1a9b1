"""`sparrow generate --trace`, and what the command says of the embedded pair."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("av")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

from generate_cases import one_line_error, plain_text, words, written  # noqa: E402

from sparrow_kernels.cli import main  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("generate"))


def test_a_trace_is_a_page_that_is_not_overwritten(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, other = tmp_path / "trace.html", tmp_path / "other.mp4"
    shutil.copy(folder / "clip.mp4", other)
    settings = ("--max-new-tokens", "9", "--tree", "5-2-2", "--trace", str(page))
    assert main(words(folder, *settings, "--compare", "--repeats", "2")) == 0
    captured = capsys.readouterr()
    assert captured.out == plain_text(folder, 9) + "\n"
    assert captured.err.endswith(f"trace: {page} (open it in a browser)\n")
    text = page.read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])  # type: ignore[index]
    (one,) = data["requests"]
    said = one["first"] + "".join(word for each in one["steps"] for word in each[7])
    assert said == captured.out.strip("\n") and len(one["frames"]) == 4
    assert (one["clip"], one["visual_tokens"], data["tree"]) == ("clip.mp4", 8, "5-2-2")
    assert [speed["against"] for speed in data["speed"]] == ["our plain loop", "generate"]
    assert f"{len(one['steps'])} target calls" in captured.err
    assert main(words(folder, *settings)) == 2
    assert f"--trace must be new, got {page}, which exists (--force" in one_line_error(capsys)
    assert page.read_text() == text
    assert main(words(folder, *settings, "--force", "--json", "--batch", str(other))) == 0
    assert capsys.readouterr().err == ""
    data = json.loads(re.search(r'id="data">(.*?)</script>', page.read_text())[1])  # type: ignore
    assert [one["clip"] for one in data["requests"]] == ["clip.mp4", "other.mp4"]
    assert main(words(folder, "--trace", str(tmp_path / "trace.txt"))) == 2
    assert "--trace: must be a file that ends in .html" in one_line_error(capsys)


def test_the_embedded_pair_says_what_it_knows(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sparrow_kernels.embedded.captions import QUESTIONS

    assert main(["generate", "--help"]) == 0
    known = {line.strip() for line in capsys.readouterr().out.splitlines()}
    for question in (each for forms in QUESTIONS.values() for each in forms):
        assert question.format(part="one") in known
    clip = str(tmp_path / "clip.mp4")
    assert main(["clip", clip, "--visual-tokens", "40"]) == 0
    capsys.readouterr()
    few = ("How many parts are there?", "--max-new-tokens", "2", "--json")
    assert main(["generate", clip, *few]) == 0
    assert capsys.readouterr().err == ""
    assert main(["generate", clip, "Why are there so many parts?", *few[1:]]) == 0
    said = capsys.readouterr().err
    assert said.startswith("note: the embedded pair was not taught why, so: ")
    assert said.count("\n") == 1
    assert main(["generate", str(folder / "clip.mp4"), *few]) == 0
    said = capsys.readouterr().err
    assert said.startswith(f"note: {folder / 'clip.mp4'} is no clip that `sparrow clip` makes")
    assert said.count("\n") == 1
