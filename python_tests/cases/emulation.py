"""The libraries that the tests of native ops run over, with the same bodies.

    native     torch.ops.sparrow_native on CPU tensors
    emulated   torch.ops.sparrow_emulated: the CUDA kernels themselves, compiled by the C++ compiler
               and run on a CPU with a fiber a thread, in a shuffled order (csrc/emulation)
    cuda       torch.ops.sparrow_native on CUDA tensors; marked gpu

A test takes the fixture `library`: its `ops`, and tensors made in the test lie on its device.
`compile_program` makes a program of its own of some kernels, without torch.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

CHECKOUT = Path(__file__).resolve().parents[2]
LIBRARIES = ("native", "emulated", pytest.param("cuda", marks=pytest.mark.gpu))


@dataclass(frozen=True)
class Library:
    """One library of native ops, and where its tensors live."""

    name: str
    ops: Any
    device: str

    @property
    def is_cuda_code(self) -> bool:
        return self.name != "native"


@cache
def load_emulated() -> None:
    """Build what has changed of `libsparrow_emulated.so`, and load it.

    SPARROW_EMULATED names one that was built elsewhere, of other sources (mutants.py).
    """
    # A misaligned access then ends as a crash that names the test, not as a silent exit.
    os.environ.setdefault("UBSAN_OPTIONS", "abort_on_error=1")
    if elsewhere := os.environ.get("SPARROW_EMULATED"):
        torch.ops.load_library(elsewhere)
        return
    folder = CHECKOUT / "build" / f"emulated-{sysconfig.get_config_var('SOABI')}"
    folder.mkdir(parents=True, exist_ok=True)
    scripts = sysconfig.get_path("scripts")
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}"}

    def run(*command: str) -> None:
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"

    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs of the tests may want it at once
        if not _is_configured(folder):
            (folder / "CMakeCache.txt").unlink(missing_ok=True)  # of a folder that was copied
            run(
                *("cmake", "-S", str(CHECKOUT), "-B", str(folder), "-G", "Ninja"),
                *("-DSPARROW_CUDA=0", "-DCMAKE_BUILD_TYPE=Release"),
                f"-DPython3_EXECUTABLE={sys.executable}",
                f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={folder}",
            )
        jobs = os.environ.get("MAX_JOBS", "2")
        run("cmake", "--build", str(folder), "--target", "sparrow_emulated", "-j", jobs)
        torch.ops.load_library(str(folder / "libsparrow_emulated.so"))


def _is_configured(folder: Path) -> bool:
    """Whether CMake has been here for this checkout: a copy would build the other's sources."""
    cache = folder / "CMakeCache.txt"
    if not ((folder / "build.ninja").exists() and cache.exists()):
        return False
    text = cache.read_text()
    return (
        f"CMAKE_HOME_DIRECTORY:INTERNAL={CHECKOUT}\n" in text
        and f"CMAKE_CACHEFILE_DIR:INTERNAL={folder}\n" in text
    )


CSRC = CHECKOUT / "csrc"
_FLAGS = ("-std=c++20", "-pthread", "-O1", "-U_FORTIFY_SOURCE", "-ffp-contract=off")


def _compile(output: Path, source: Path, *flags: str, csrc: Path = CSRC) -> Path:
    compiler = shutil.which("c++") or shutil.which("g++")
    assert compiler is not None
    include = (f"-I{csrc / 'emulation'}", f"-I{csrc}", "-DSPARROW_EMULATION")
    subprocess.run(
        [compiler, *_FLAGS, *flags, *include, "-c", source, "-o", output],
        check=True,
    )
    return output


# Calls into hooks.cpp: the sanitizer's own library is not linked.
_OF_KERNELS = "-fsanitize=thread"


@cache
def _runtime() -> Path:
    """A folder with the emulator's own object, and its headers read: once for all that ask."""
    sources = sorted((CSRC / "emulation").glob("*.cpp"))
    text = "".join(path.read_text() for path in sorted((CSRC / "emulation").iterdir()))
    digest = hashlib.sha256(" ".join([text, *_FLAGS, _OF_KERNELS]).encode()).hexdigest()[:12]
    folder = CHECKOUT / "build" / f"emulation-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "runtime.o").exists():
            runtime, kernels = folder / "runtime.cpp", folder / "kernels.h"
            runtime.write_text("".join(f'#include "emulation/{path.name}"\n' for path in sources))
            kernels.write_text("#include <cuda_runtime.h>\n")
            _compile(folder / "kernels.h.gch", kernels, _OF_KERNELS, "-xc++-header")
            _compile(folder / "runtime.part", runtime).rename(folder / "runtime.o")
    return folder


def compile_program(folder: Path, text: str, csrc: Path = CSRC) -> Path:
    """An executable of a program that includes kernels, from `csrc`, run by the emulator."""
    runtime = _runtime()
    (folder / "program.cpp").write_text(text)
    # Reading the emulator's headers takes as long as compiling what is here.
    flags = (_OF_KERNELS, "-include", str(runtime / "kernels.h"))
    program = _compile(folder / "program.o", folder / "program.cpp", *flags, csrc=csrc)
    output, objects = folder / "program", (program, runtime / "runtime.o")
    subprocess.run(["c++", "-pthread", "-o", output, *objects], check=True)
    return output


@pytest.fixture(scope="module", params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Iterator[Library]:
    """Each library in turn; new tensors go to its device."""
    if request.param == "emulated":
        load_emulated()
    ops = torch.ops.sparrow_emulated if request.param == "emulated" else torch.ops.sparrow_native
    device = "cuda" if request.param == "cuda" else "cpu"
    with torch.device(device):
        yield Library(request.param, ops, device)
