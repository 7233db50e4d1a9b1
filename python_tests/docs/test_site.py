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
def test_lists_hold_what_belongs_to_them(page: Path) -> None:
    """GitHub takes two spaces for that, the site's Markdown four."""
    lines = page.read_text(encoding="utf-8").splitlines()
    pairs = enumerate(zip(lines, lines[1:], strict=False), start=2)
    assert [n for n, (above, line) in pairs if not above and re.match(r" {1,3}\S", line)] == []
