"""Every command that README and docs name is one: its words are what the real parsers take."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec

import pytest
from doc_pages import PAGES, ROOT, blocks, spans

from sparrow_kernels.cli.errors import WrongCommandLine
from sparrow_kernels.cli.main import _parser

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


class Parsed(Exception):
    """The command line was taken; nothing was run."""


class Refused(Exception):
    """It was not, for the reason given."""


def sparrow(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words[:1] == ["bench"] and words[1:]:
        return module("bench.run", words[1:], monkeypatch)
    try:
        with tempfile.TemporaryDirectory() as folder, monkeypatch.context() as patch:
            patch.chdir(folder)  # outputs are refused where nobody may write, as in some checkouts
            _parser().parse_args(words)
    except WrongCommandLine as wrong:
        raise Refused(wrong) from wrong
    except SystemExit as ended:  # --help
        assert ended.code == 0


def module(name: str, words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m name words`, up to where its parser has taken them."""
    if name == "sparrow_kernels.cli":
        return sparrow(words, monkeypatch)
    if name == "pytest":
        return pytest_(words, monkeypatch)
    if name == "venv":
        return None
    spec = find_spec(name)
    found = import_module(f"{name}.__main__" if spec and spec.submodule_search_locations else name)
    take = argparse.ArgumentParser.parse_args

    def parse_only(self: argparse.ArgumentParser, *arguments: object) -> None:
        take(self, *arguments)
        raise Parsed

    def refuse(self: argparse.ArgumentParser, message: str) -> None:
        raise Refused(message)

    with monkeypatch.context() as patch, pytest.raises(Parsed):
        patch.setattr(sys, "argv", [name, *words])
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
        patch.setattr(argparse.ArgumentParser, "error", refuse)
        found.main()


def python(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words[0] == "-m":
        return module(words[1], words[2:], monkeypatch)
    assert (ROOT / words[0]).is_file(), f"no {words[0]}"


def pytest_(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [word for word in words if word.endswith(".py")]
    assert paths and all((ROOT / path).is_file() for path in paths), f"no {paths}"


def make(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for word in words:
        name, sets, _ = word.partition("=")
        known = rf"^{name} \?= |\$\((if |or )\$\({name}\)" if sets else rf"^{name}:"
        if not re.search(known, MAKEFILE, re.MULTILINE):
            raise Refused(f"make: no {word}")


def pip(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    extras = {extra for word in words for extra in re.findall(r"^\.\[(\w+)\]$", word)}
    assert extras <= set(EXTRAS), f"no extra {extras - set(EXTRAS)}"


def gpu_suite(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    script = (ROOT / "bench" / "gpu_suite.sh").read_text(encoding="utf-8")
    suite = script + "".join(path.read_text() for path in (ROOT / "bench" / "suite").glob("*"))
    assert all(word in suite for word in words if word.startswith("--")), f"no {words}"


def torchrun(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    python(words[words.index("-m") :], monkeypatch)


def of_others(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is not ours."""


COMMANDS = {
    "cd": of_others,
    "chromium": of_others,
    "kernel-builder": of_others,
    "sparrow": sparrow,
    "python": python,
    "python3": python,
    "pytest": pytest_,
    "make": make,
    "pip": pip,
    "wheels-env/bin/pip": pip,
    "bench/gpu_suite.sh": gpu_suite,
    "torchrun": torchrun,
}


def commands(line: str) -> Iterator[list[str]]:
    """The commands of a line, without its comment."""
    for command in line.split(" && "):
        words = shlex.split(command, comments=True)
        if words:
            yield words


# A reader's own files are not here, and in a sentence a command may lack what it needs.
_ABSENT = r"does not exist"
_UNFINISHED = rf"{_ABSENT}|are required|is required|expected .* argument"


def refusal(words: list[str], allowed: str, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Why a command line is not taken, where that is not `allowed`."""
    if words[0] not in COMMANDS:
        return f"not a known command: {words[0]}"
    try:
        COMMANDS[words[0]](words[1:], monkeypatch)
    except (Refused, AssertionError) as error:
        return None if re.search(allowed, str(error)) else str(error)
    return None


def test_commands_of_blocks_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, seen = [], 0
    for block in (block for page in PAGES for block in blocks(page)):
        lines = block.code.splitlines()
        # A block of commands begins with one; formulas, layouts and messages do not.
        if block.language not in ("", "sh") or lines[0].split()[0] not in COMMANDS:
            continue
        for words in (words for line in lines for words in commands(line)):
            seen += 1
            why = refusal(words, _ABSENT, monkeypatch)
            wrong += [] if why is None else [f"{block.where}: {shlex.join(words)}: {why}"]
    assert wrong == []
    assert seen > 40


def test_commands_in_sentences_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, seen = [], 0
    for page, span in ((each, span) for each in PAGES for span in spans(each)):
        if not re.match(r"(sparrow|make|python|pytest|torchrun|bench/gpu_suite\.sh) ", span):
            continue
        seen += 1
        words = [word for word in shlex.split(span) if word not in ("…", "...")]
        why = refusal(words, _UNFINISHED, monkeypatch)
        wrong += [] if why is None else [f"{page.name}: {span}: {why}"]
    assert wrong == []
    assert seen > 40
