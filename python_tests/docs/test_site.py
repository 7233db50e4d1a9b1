"""The site builds without a warning, and a browser finds nothing wrong with any page of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from doc_pages import ROOT

TOOLS = ROOT / ".venv-docs" / "bin"
BROWSERS = ("chromium", "chromedriver")
MISSING = [name for name in BROWSERS if shutil.which(name) is None]


@pytest.mark.slow
@pytest.mark.skipif(not (TOOLS / "mkdocs").exists(), reason="no .venv-docs here: make docs")
@pytest.mark.skipif(bool(MISSING), reason=f"not on PATH: {', '.join(MISSING)}")
def test_every_page_in_a_browser(tmp_path: Path) -> None:
    def run(*words: str | Path) -> str:
        done = subprocess.run([*words], cwd=ROOT, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pages, site = tmp_path / "pages", tmp_path / "site"
    config = tmp_path / "mkdocs.yml"
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    places = {"build/docs": str(pages), "paths: [.]": f"paths: [{ROOT}]"}
    for name, place in {**places, "docs/site/docstrings": f"{ROOT}/docs/site/docstrings"}.items():
        text = text.replace(name, place)
    config.write_text(text, encoding="utf-8")
    run(TOOLS / "python", "docs/site/stage.py", pages)
    run(TOOLS / "mkdocs", "build", "--quiet", "--strict", "-f", config, "-d", site)
    assert "No broken link" in run(TOOLS / "python", "docs/site/look.py", site)
