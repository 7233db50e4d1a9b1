"""Runs the tests of the native CPU ops on a library built with sanitizers.

    python python_tests/sanitized.py address thread [--tests FILE ...]

`address`: reads and writes outside of what was allocated, and undefined behaviour (not in the
vectors of attention, which take the compiler too long). `thread`: races between the threads of a
call. The library and a copy of the package's Python files lie in a folder
under build/, which PYTHONPATH puts before the checkout. g++ only: the sanitizer's runtime must be
in the process before Python is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("accept", "append", "attention", "gather", "pages", "residual", "sample",
         "sampling_rows", "topk", "tree", "walk", "window")  # fmt: skip
# AddressSanitizer looks for C++'s throw once, as the process begins: that library must be there.
# ThreadSanitizer ends without a word where it is.
RUNTIMES = {"address": ("libasan.so", "libstdc++.so.6"), "thread": ("libtsan.so",)}
SETTINGS = {
    # Python and torch keep what they allocate, and this is about what is read and written.
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1:ignore_noninstrumented_modules=1:abort_on_error=1",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sanitizers", nargs="+", choices=tuple(RUNTIMES))
    parser.add_argument(
        "--tests",
        nargs="+",
        default=[f"python_tests/native/test_native_{name}.py" for name in TESTS],
    )
    arguments = parser.parse_args()
    failed = [name for name in arguments.sanitizers if tested(name, arguments.tests)]
    for name in arguments.sanitizers:
        print(f"{name}: {'failed' if name in failed else 'passed'}")
    return int(bool(failed))


def tested(sanitizer: str, tests: list[str]) -> int:
    """The status of the tests on a library with this sanitizer."""
    folder = built(sanitizer)
    preloaded = " ".join(map(library, RUNTIMES[sanitizer]))
    # Where the system puts things at random places, ThreadSanitizer may find its own taken.
    still = ["setarch", "-R"] if shutil.which("setarch") else []
    words = ["-q", "-p", "no:cacheprovider", "-k", "not emulated and not gpu", *tests]
    environment = os.environ | SETTINGS | {
        "LD_PRELOAD": preloaded, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "2",
    }  # fmt: skip
    return subprocess.call(
        [*still, sys.executable, "-m", "pytest", *words], cwd=ROOT, env=environment
    )


def library(name: str) -> str:
    """Where the compiler's own library of this name lies."""
    command = ["g++", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def built(sanitizer: str) -> Path:
    """The folder that holds the package with such a library."""
    folder = ROOT / "build" / f"sanitized-{sanitizer}"
    package = folder / "sparrow_kernels"
    shutil.copytree(
        ROOT / "sparrow_kernels", package, dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )  # fmt: skip
    for module in (ROOT / "sparrow_kernels").glob("_C*.so"):
        shutil.copy2(module, package)
    scripts = Path(sysconfig.get_path("scripts"))
    build = folder / "cmake"
    configure = [
        *(scripts / "cmake", "-S", ROOT, "-B", build, "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={scripts / 'ninja'}",
        "-DCMAKE_CXX_COMPILER=g++",
        f"-DPython3_EXECUTABLE={sys.executable}",
        f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={package}",
        *("-DSPARROW_CUDA=0", f"-DSPARROW_SANITIZE={sanitizer}"),
    ]
    for command in (configure, [scripts / "cmake", "--build", build, "--target", "sparrow_ops"]):
        subprocess.check_call([str(word) for word in command])
    return folder


if __name__ == "__main__":
    sys.exit(main())
