"""The site builds without a warning, and a browser finds nothing wrong with any page of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from doc_pages import PAGES, ROOT

TOOLS = ROOT / ".venv-docs" / "bin"
BROWSERS = ("chromium", "chromedriver")
MISSING = [name for name in BROWSERS if shutil.which(name) is None]


@pytest.mark.slow
@pytest.mark.skipif(not (TOOLS / "mkdocs").exists(), reason="no .venv-docs here: make docs")
@pytest.mark.skipif(bool(MISSING), reason=f"not on PATH: {', '.join(MISSING)}")
def test_every_page_in_a_browser(tmp_path: Path) -> None:
    pages, site = tmp_path / "pages", tmp_path / "site"

    def run(*words: str | Path) -> str:
        environment = {**os.environ, "SITE_PAGES": str(pages)}
        done = subprocess.run(words, cwd=ROOT, env=environment, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(TOOLS / "python", "docs/site/stage.py", pages)
    run(TOOLS / "mkdocs", "build", "--quiet", "--strict", "-d", site)
    assert "No broken link" in run(TOOLS / "python", "docs/site/look.py", site)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lists_are_those_of_both_markdowns(page: Path) -> None:
    """The site's wants four spaces before what belongs to an item, where GitHub takes two or three,
    and an empty line behind an item that has one within it."""
    wrong, within = [], False
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, (above, line) in enumerate(zip(lines, lines[1:], strict=False), start=2):
        if re.match(r"(- |\d+\. )", line):
            wrong += [number] if within and above else []
            within = False
        elif not above and line.startswith(" "):
            wrong += [number] if re.match(r" {1,3}\S", line) else []
            within = True
        elif line and not line.startswith(" "):
            within = False
    assert wrong == []
