"""Makes the folder that Hugging Face's kernel-builder builds the ops from, for the Kernel Hub.

    python build_hub.py build/hub --repo-id OWNER/sparrow-kernels

    build.toml, flake.nix       what is compiled, and how, from the lists and settings of CMakeLists
    CARD.md, LICENSE            the model card: the README's table of ops
    csrc/                       as here, without pybind11 and the emulation
    torch-ext/sparrow_kernels/  the ops layer alone, its imports of itself made relative
    tests/                      what kernel-builder's CI runs

What is the same in every such folder lies in `hub/`. Nothing else is written by hand, nothing made
is committed. The library is the stable ABI's, and its ops are in a namespace of each build's own.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PACKAGE = "sparrow_kernels"
REPO_ID = "sparrow-kernels/sparrow-kernels"  # where `hub/tests` look for the kernel
# C++20 is csrc's own, and kernel-builder's is 17 beside torch 2.11; the others are CMakeLists'.
CXX_FLAGS = [
    *("-std=c++20", "-fvisibility=hidden"),
    *("-ffp-contract=off", "-fno-trapping-math", "-Wno-psabi"),
]
FUSED_FLAGS = ["-ffp-contract=fast", "-O3"]  # the last of two is in force
CUDA_FLAGS = ["-std=c++20", "--fmad=false"]


class Settings:
    """What CMakeLists.txt says about the library of ops."""

    def __init__(self, root: Path) -> None:
        self.text = (root / "CMakeLists.txt").read_text()
        major, minor = self.found(r"TORCH_TARGET_VERSION=0x(..)(..)0{12}\b")
        self.torch = f"{int(major, 16)}.{int(minor, 16)}"
        [listed] = self.found(r"set_source_files_properties\(\s*([^)]*?) PROPERTIES")
        self.fused = listed.split()
        [architectures] = self.found(r'SPARROW_CUDA_ARCHITECTURES "([^"]*)"')
        self.capabilities = [capability(each) for each in architectures.split(";")]

    def found(self, pattern: str) -> tuple[str, ...]:
        matches = re.findall(pattern, self.text)
        if len(matches) != 1:
            raise SystemExit(
                f"CMakeLists.txt: {pattern} must be there once, is {len(matches)} times"
            )
        return matches[0] if isinstance(matches[0], tuple) else (matches[0],)


def capability(architecture: str) -> str:
    """CMake's `80-real` as kernel-builder's `8.0`; one with PTX as `9.0+PTX`."""
    number, _, real = architecture.partition("-")
    return f"{number[:-1]}.{number[-1]}" + ("" if real == "real" else "+PTX")


def major(root: Path) -> int:
    """The version that the Hub knows: the first number of ours."""
    [version] = re.findall(r'__version__ = "(\d+)\.', (root / PACKAGE / "_version.py").read_text())
    return int(version)


def tables(root: Path, repo_id: str) -> Iterator[tuple[str, dict]]:
    """The tables of build.toml."""
    settings = Settings(root)
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    yield (
        "general",
        {
            "name": project["name"],
            "version": major(root),
            "edition": 5,
            "license": project["license"],
            "backends": ["cpu", "cuda"],
        },
    )
    yield "general.hub", {"repo-id": repo_id}
    headers = [str(path.relative_to(root)) for path in sorted(sources(root, "*.h"))]
    yield "torch", {"src": ["torch-ext/torch_binding.cpp", *headers]}
    yield "torch.stable-abi", {"cpu": settings.torch, "cuda": settings.torch}
    host = [str(path.relative_to(root)) for path in sorted(sources(root, "*.cpp"))]
    if not set(settings.fused) <= set(host):
        raise SystemExit(f"CMakeLists.txt names files that are not there: {settings.fused}")
    strict = [name for name in host if name not in settings.fused]
    common = {"depends": ["torch"], "include": ["csrc"]}
    # Of the CPU's sources for CUDA too: a build's metadata names the capabilities of all it holds.
    on_cuda = {"cuda-capabilities": settings.capabilities}
    for backend, name, flags, more in (
        ("cpu", "cpu", CXX_FLAGS, {}),
        ("cuda", "cuda-host", [*CXX_FLAGS, "-DSPARROW_WITH_CUDA"], on_cuda),
    ):
        shared = {"backend": backend, **common, **more}
        yield f"kernel.{name}", {**shared, "cxx-flags": flags, "src": strict}
        fused = {"cxx-flags": [*flags, *FUSED_FLAGS], "src": settings.fused}
        yield f"kernel.{name}-fused", {**shared, **fused}
    device = [str(path.relative_to(root)) for path in sorted(sources(root, "*.cu"))]
    compiled = {"backend": "cuda", **common, **on_cuda, "cuda-flags": CUDA_FLAGS}
    yield "kernel.cuda", {**compiled, "src": device}


def sources(root: Path, pattern: str) -> Iterator[Path]:
    """Files of csrc that the library of ops is made of: the rest is pybind11 and the emulation."""
    for folder in ("bindings", "cpu", "cuda", "kernels"):
        for path in (root / "csrc" / folder).rglob(pattern):
            if path.name != "build_facts.cpp":
                yield path


def toml(name: str, table: dict) -> str:
    # JSON's strings, numbers and lists of them are TOML's.
    return f"[{name}]\n" + "".join(f"{k} = {json.dumps(v, indent=2)}\n" for k, v in table.items())


def relative(text: str, file: Path) -> str:
    """The source `text` of `file` (its place below the package's parent), imports made relative."""
    lines = text.splitlines(keepends=True)
    package = file.parent.parts
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import) and any(is_own(each.name) for each in node.names):
            raise SystemExit(f"{file}:{node.lineno}: only `from ... import` can be made relative")
        if not isinstance(node, ast.ImportFrom) or node.level or not is_own(node.module or ""):
            continue
        module = tuple(str(node.module).split("."))
        if module[:2] != (PACKAGE, "ops"):
            raise SystemExit(f"{file}:{node.lineno}: {node.module} is not of the ops layer")
        shared = next(
            (at for at, pair in enumerate(zip(package, module, strict=False)) if len({*pair}) > 1),
            min(len(package), len(module)),
        )
        place = "." * (len(package) - shared + 1) + ".".join(module[shared:])
        line, start = lines[node.lineno - 1], node.col_offset
        absolute = f"from {node.module} import"
        assert line[start:].startswith(absolute), line  # columns are bytes: there are no others
        lines[node.lineno - 1] = line[:start] + line[start:].replace(
            absolute, f"from {place} import", 1
        )
    return "".join(lines)


def is_own(module: str) -> bool:
    return module.split(".")[0] == PACKAGE


def public_names(root: Path) -> dict[str, str]:
    """The public names that the ops layer defines, each with its module."""
    tree = ast.parse((root / PACKAGE / "__init__.py").read_text())
    [homes] = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES"
    ]
    return {name: home for name, home in ast.literal_eval(homes).items() if home.startswith("ops.")}


def package_init(names: dict[str, str]) -> str:
    imports = [
        f"from .{home} import {', '.join(name for name in names if names[name] == home)}\n"
        for home in sorted(set(names.values()))
    ]
    listed = "".join(f'    "{name}",\n' for name in sorted(names))
    return f'"""Fused ops for speculative decoding in Video LLMs."""\n\n{"".join(imports)}\n' + (
        f"__all__ = [\n{listed}]\n"
    )


def card(root: Path, repo_id: str) -> str:
    """The model card; kernel-builder takes it for a template, and finds no placeholder."""
    readme = (root / "README.md").read_text()
    ops = readme.split("\n## Ops\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in ops.splitlines() if line.startswith("|")]
    table = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", "\n".join(rows))
    return f"""---
library_name: kernels
license: apache-2.0
---

# sparrow-kernels

Fused ops for speculative decoding in Video LLMs. Each works eagerly, in `torch.compile` and in a
CUDA graph; a wrong argument is named.

    from kernels import get_kernel
    sparrow = get_kernel("{repo_id}", version={major(root)})

{table}
"""


def make(out: Path, repo_id: str = REPO_ID, root: Path = ROOT) -> None:
    """Write the folder `out`, over an earlier one of the same kind."""
    if out.exists() and any(out.iterdir()):
        if not (out / "build.toml").exists():
            raise SystemExit(f"{out} holds something else: name a new or an empty folder")
        shutil.rmtree(out)
    for pattern in ("*.h", "*.cpp", "*.cu"):
        for path in sources(root, pattern):
            place = out / path.relative_to(root)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
    for path in sorted((root / PACKAGE / "ops").rglob("*.py")):
        file = path.relative_to(root)
        place = out / "torch-ext" / file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(relative(path.read_text(), file))
    shutil.copytree(root / "hub", out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__py*"))
    for test in (out / "tests").glob("*.py"):
        test.write_text(test.read_text().replace(REPO_ID, repo_id))
    init = out / "torch-ext" / PACKAGE / "__init__.py"
    init.write_text(package_init(public_names(root)))
    (out / "build.toml").write_text("\n".join(toml(*each) for each in tables(root, repo_id)))
    (out / "CARD.md").write_text(card(root, repo_id))
    shutil.copy(root / "LICENSE", out / "LICENSE")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--repo-id", default=REPO_ID, help="the Hub repository it is meant for")
    arguments = parser.parse_args()
    make(arguments.out, arguments.repo_id)
    files = sum(path.is_file() for path in arguments.out.rglob("*"))
    print(f"{arguments.out}: {files} files; `kernel-builder build {arguments.out}` builds them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
