"""Links between our own pages lead to files and headings that are there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s#]*)(?:#([^)\s]+))?\)")
_FENCE = re.compile(r"^( *)```.*?^\1```", re.DOTALL | re.MULTILINE)


@cache
def anchors(page: Path) -> set[str]:
    """What GitHub calls a page's headings, and the names that the site makes of docstrings."""
    text = _FENCE.sub("", page.read_text())
    documented = set(re.findall(r"^::: (\S+)", text, re.MULTILINE))
    titles = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    named = {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in titles}
    return named | documented


def broken(page: Path) -> list[str]:
    found = []
    for name, anchor in _LINK.findall(_FENCE.sub("", page.read_text())):
        target = (page.parent / name).resolve() if name else page
        leads = target.exists() and (not anchor or anchor in anchors(target))
        if not leads:
            found.append(f"{name}#{anchor}" if anchor else name)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_link_to_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `title`, here\n[1](#a-title-here) [2](page.md) [3](no.md) [4](#none)\n")
    assert broken(page) == ["no.md", "#none"]
