"""Gathers the pages of the site: python docs/site/stage.py build/docs.

What lies in docs/ is taken as it is. README, changelog, CONTRIBUTING and each example become pages,
and pictures lie beside them. A link is written as it works in the repository; here it becomes one
that works on the site, so that the builder can check it. The builder itself knows nothing of all
this, and can be exchanged.
"""

from __future__ import annotations

import argparse
import ast
import os
import posixpath
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import sparrow_kernels  # noqa: E402  (neither it nor its command line imports torch)
from sparrow_kernels.cli.main import _parser  # noqa: E402

# Where what does not lie in docs/ goes.
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    **{f"examples/{each.name}": f"examples/{each.stem}.md" for each in ROOT.glob("examples/*.py")},
    **{
        each.relative_to(ROOT).as_posix(): f"plots/{each.name}"
        for each in ROOT.glob("bench/results/plots/*.svg")
    },
}

# Pages of wide tables, which do without a list of their neighbours.
WIDE = ("README.md", "docs/benchmarks.md")
_HIDE = "---\nhide: [navigation]\n---\n\n"

_HELP = "<!-- every command's --help -->"
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
_PICTURE = re.compile(
    r'<picture>\s*<source [^>]*srcset="(?P<dark>[^"]+)">\s*'
    r'<img alt="(?P<alt>[^"]*)" src="(?P<light>[^"]+)">\s*</picture>'
)
_OP = re.compile(r"^\| (`(\w+)\([^`]*\)`)", re.MULTILINE)


def stage(folder: Path) -> None:
    """Write every page and picture into `folder`, anew."""
    shutil.rmtree(folder, ignore_errors=True)
    origins = [each.relative_to(ROOT).as_posix() for each in (ROOT / "docs").rglob("*.*")]
    for origin in [*origins, *ELSEWHERE]:
        path = folder / _on_site(origin)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            path.write_text(_page(origin), encoding="utf-8")
        elif not origin.endswith(".py"):
            shutil.copy(ROOT / origin, path)


def _on_site(origin: str) -> str:
    return ELSEWHERE.get(origin, origin.removeprefix("docs/"))


def _page(origin: str) -> str:
    """A page as the builder reads it: links of the site, no marks of other tools."""
    text = (ROOT / origin).read_text(encoding="utf-8")
    if origin.endswith(".py"):
        return _example(origin, text)
    text = text.replace(_HELP, "\n".join(_help_pages()))
    text = _COMMENT.sub("", text)
    # GitHub asks what the reader's system prefers; on the site the reader chooses.
    text = _PICTURE.sub(r"![\g<alt>](\g<light>#only-light)\n![\g<alt>](\g<dark>#only-dark)", text)
    if origin == "README.md":
        text = _OP.sub(_with_reference, text)
    text = _LINK.sub(lambda link: _relative(link[1], origin), text)
    return _HIDE + text if origin in WIDE else text


def _relative(link: str, origin: str) -> str:
    """A link of the repository's file `origin` as one of its page."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))
    return posixpath.relpath(_on_site(target), posixpath.dirname(_on_site(origin)) or ".")


def _with_reference(row: re.Match[str]) -> str:
    """An op in the README's table, leading to its reference."""
    known = row[2] in sparrow_kernels.__all__
    return f"| [{row[1]}][sparrow_kernels.{row[2]}]" if known else row[0]


def _example(origin: str, code: str) -> str:
    about = ast.get_docstring(ast.parse(code)) or ""
    title = posixpath.basename(origin)
    return f"# {title}\n\n{about}\n\n    python {origin}\n\n```python\n{code}```\n"


def _help_pages() -> Iterator[str]:
    """A section a command, as it prints its help."""
    os.environ["COLUMNS"] = "88"
    for name, parser in _commands("sparrow", _parser()):
        yield f"## {name}\n\n```text\n{parser.format_help().rstrip()}\n```\n"


def _commands(
    name: str, parser: argparse.ArgumentParser
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, command in action.choices.items():
                yield from _commands(f"{name} {word}", command)


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
