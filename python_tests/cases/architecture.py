"""Reads the package's imports and includes: who imports whom, as the source says it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "sparrow_kernels"


@dataclass(frozen=True)
class Import:
    """One import statement. `at_load` if it runs when its file is first imported."""

    file: str
    line: int
    module: str
    at_load: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


class Source:
    """The repository below `root`, as far as it is ours."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.python = sorted((root / PACKAGE).rglob("*.py"))
        self.native = [
            path
            for path in sorted((root / "csrc").rglob("*"))
            if path.suffix in (".h", ".cuh", ".cpp", ".cu")
        ]

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def imports(self, *folders: str) -> Iterator[Import]:
        """Every import of the Python files below `folders`, by default the package."""
        for path in self.python if not folders else self._below(folders):
            yield from self._imports_of(path)

    def _below(self, folders: tuple[str, ...]) -> list[Path]:
        return [path for folder in folders for path in sorted((self.root / folder).rglob("*.py"))]

    def _imports_of(self, path: Path) -> Iterator[Import]:
        tree = ast.parse(path.read_text())
        later = {
            id(inner)
            for outer in ast.walk(tree)
            if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef)) or _for_types(outer)
            for inner in ast.walk(outer)
        }
        for node in ast.walk(tree):
            for module in self._modules(node, path):
                at_load = id(node) not in later
                yield Import(self.name(path), getattr(node, "lineno", 0), module, at_load)

    def _modules(self, node: ast.AST, path: Path) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = list(path.relative_to(self.root).parts[: -node.level])
                base = ".".join([*package, base] if base else package)
            for alias in node.names:
                is_module = self.file_of(f"{base}.{alias.name}") is not None
                yield f"{base}.{alias.name}" if is_module else base

    def file_of(self, module: str) -> str | None:
        """The file of one of our modules, None for other modules."""
        stem = self.root.joinpath(*module.split("."))
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.exists():
                return self.name(path)
        return None

    def includes(self) -> Iterator[tuple[str, str]]:
        """Every (file, included header) of the native code."""
        for path in self.native:
            for match in re.finditer(r'^\s*#\s*include\s*[<"]([^>"]+)', path.read_text(), re.M):
                yield self.name(path), match.group(1)

    def cycle(self) -> list[str]:
        """Files that import one another when loaded, in a ring; empty if there is none."""
        graph: dict[str, set[str]] = {self.name(path): set() for path in self.python}
        for each in self.imports():
            target = self.file_of(each.module)
            if each.at_load and target in graph and target != each.file:
                graph[each.file].add(target)
        done: set[str] = set()

        def visit(file: str, trail: list[str]) -> list[str]:
            if file in trail:
                return trail[trail.index(file) :]
            if file in done:
                return []
            for target in sorted(graph[file]):
                if ring := visit(target, [*trail, file]):
                    return ring
            done.add(file)
            return []

        return next((ring for file in sorted(graph) if (ring := visit(file, []))), [])


def _for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def is_inside(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)
