"""What is told in two places is told alike."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from public_names import NOT_OPS

import build_backend
import sparrow_kernels

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is missing")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def bounds(package: str) -> str:
    """Such as `>=5.17,<6`."""
    (need,) = [each for each in PROJECT["dependencies"] if each.startswith(package)]
    return need.removeprefix(package)


def test_the_changelog_begins_with_the_version() -> None:
    headings = re.findall(r"^## (.+)$", text("CHANGELOG.md"), re.MULTILINE)
    version, _, when = headings[0].partition(" ")
    assert version == sparrow_kernels.__version__
    assert re.fullmatch(r"\((unreleased|\d{4}-\d\d-\d\d)\)", when)
    assert not any("unreleased" in heading for heading in headings[1:])


def test_readme_names_the_bounds() -> None:
    (said,) = re.findall(r"^    pip install \. +# .*; (torch .+)$", text("README.md"), re.MULTILINE)
    needs = dict(each.split(" ", 1) for each in said.split(", "))
    assert set(needs) == {"torch", "transformers"}
    for package, need in needs.items():
        assert need.replace(" and ", ",").replace(" ", "") == bounds(package)


def test_a_build_asks_for_the_torch_that_the_package_needs() -> None:
    assert f"torch{bounds('torch')}" == build_backend.TORCH
    oldest = ".".join(map(str, build_backend._OLDEST))
    assert bounds("torch") == f">={oldest}"
    major, minor = build_backend._OLDEST
    assert f"TORCH_TARGET_VERSION=0x{major:02x}{minor:02x}{0:012x}" in text("CMakeLists.txt")


def test_every_room_of_the_package_is_in_the_table_of_rooms() -> None:
    rooms = {path.parent.name for path in (ROOT / "sparrow_kernels").glob("*/__init__.py")}
    named = re.findall(r"^\| `sparrow_kernels/(\w+)` \|", text("CONTRIBUTING.md"), re.MULTILINE)
    assert sorted(named) == sorted(rooms)


def test_every_op_is_in_the_table_of_derivatives() -> None:
    rows = [line for line in text("docs/library-authors.md").splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(set(sparrow_kernels.__all__) - NOT_OPS)


def made(*words: str) -> str:
    """What `make` says or, of a dry run, would do."""
    command = ["make", "--no-print-directory", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@needs_make
def test_make_says_what_it_can_make() -> None:
    makefile = text("Makefile").replace("\\\n", " ")
    (targets,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    described = re.findall(r"^make ([\w-]+)  ", made("help"), re.MULTILINE)
    assert sorted(described) == sorted(targets.split())
    assert made("--dry-run") == made("--dry-run", "help"), "make alone makes nothing"


@needs_make
@pytest.mark.parametrize(
    ("upgrade", "asked"),
    [
        ("", []),
        ("1", ["--upgrade"]),
        ("transformers peft", ["--upgrade-package=transformers", "--upgrade-package=peft"]),
    ],
)
def test_a_lock_is_upgraded_as_far_as_is_asked(upgrade: str, asked: list[str]) -> None:
    said = made("--dry-run", "lock", f"UPGRADE={upgrade}", "PYTHON=python3")
    resolved = [line for line in said.splitlines() if "pip compile" in line]
    assert len(resolved) == 3
    for line in resolved:
        assert re.findall(r"--upgrade\S*", line) == asked
