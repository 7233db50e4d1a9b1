"""Builds the native library with CMake and Ninja, where there is a compiler (see CMakeLists.txt).

    SPARROW_BUILD_NATIVE=auto|0|1   auto: if there is a compiler; 0: pure Python; 1: or fail
    SPARROW_BUILD_CUDA=auto|0|1     auto: if there is an nvcc, and torch is a build for CUDA;
                                    0: CPU only; 1: whatever torch is, or fail
    SPARROW_BUILD_TORCH             folder of the torch to build against, not the one that is there
    SPARROW_BUILD_OPS               a library of ops made before, for any Python: not compiled
    CMAKE_ARGS, MAX_JOBS            passed on to CMake, and to Ninja

The files go into the package folder: of the checkout for an editable install, of the wheel else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # where pip runs this file, its folder is not there
from build_backend import installed_torch  # noqa: E402

PACKAGE = "sparrow_kernels"
OPS_LIBRARY = "libsparrow_ops.so"
HINT = (
    "Install a C++20 compiler (Debian: apt-get install g++) and `pip install cmake ninja pybind11`,"
    " or leave SPARROW_BUILD_NATIVE=auto for a pure Python install, which is slower."
)


def choice(variable: str) -> str:
    value = os.environ.get(variable, "auto").strip() or "auto"
    if value not in ("auto", "0", "1"):
        raise SystemExit(f"{variable} must be auto, 0 or 1, got {value!r}")
    return value


def tool(*names: str) -> str | None:
    """The first of these programs, in this Python's own scripts or on PATH."""
    folders = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    return next((found for name in names if (found := shutil.which(name, path=folders))), None)


def missing_for_native() -> list[str]:
    """What a native build lacks here, in words."""
    compilers = (os.environ["CXX"],) if os.environ.get("CXX") else ("c++", "g++", "clang++")
    lacking = {
        "a C++ compiler": tool(*compilers) is None,
        "cmake": tool("cmake") is None,
        "ninja": tool("ninja") is None,
        "the Python package torch": installed_torch() is None,
        "the Python package pybind11": find_spec("pybind11") is None,
    }
    return [what for what, is_missing in lacking.items() if is_missing]


def why_not_native() -> str | None:
    """Why this install is pure Python, None where the native library is built."""
    wanted = choice("SPARROW_BUILD_NATIVE")
    if wanted == "0":
        return "SPARROW_BUILD_NATIVE=0"
    missing = missing_for_native()
    if not missing:
        return None
    if wanted == "1":
        raise SystemExit(
            f"SPARROW_BUILD_NATIVE=1, but this is missing: {', '.join(missing)}. {HINT}"
        )
    return f"this is missing: {', '.join(missing)}"


def cuda_choice() -> str:
    """SPARROW_BUILD_CUDA for CMake: `auto` beside a torch that could not run the kernels is `0`."""
    wanted, torch = choice("SPARROW_BUILD_CUDA"), installed_torch()
    if wanted == "auto" and torch is not None and torch.cuda is None:
        print(
            f"{PACKAGE}: torch {torch.version} is a CPU build, so CUDA is not compiled"
            " (SPARROW_BUILD_CUDA=1 compiles it all the same)."
        )
        return "0"
    return wanted


class BuildPython(build_py):
    """Copies the Python files; says so where they are all there is."""

    def run(self) -> None:
        reason = why_not_native()
        if reason is not None:
            print(f"{PACKAGE}: pure Python, since {reason}. Every op works, more slowly.")
            if self.editable_mode:
                for stale in [*(ROOT / PACKAGE).glob("_C*.so"), ROOT / PACKAGE / OPS_LIBRARY]:
                    stale.unlink(missing_ok=True)
        super().run()


class BuildNative(build_ext):
    """Runs CMake once; it makes both files."""

    def run(self) -> None:
        reason = why_not_native()
        if reason is not None:  # asked for by name: an install does not come here
            print(f"{PACKAGE}: no native library, since {reason}.")
            return
        import pybind11

        torch = installed_torch()
        assert torch is not None  # else there is a reason
        folder = self.package_folder()
        cmake, ninja = tool("cmake"), tool("ninja")
        build = ROOT / "build" / f"native-{sysconfig.get_config_var('SOABI')}"
        configure = [
            *(cmake, "-S", ROOT, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"),
            f"-DCMAKE_MAKE_PROGRAM={ninja}",
            f"-DPython3_EXECUTABLE={sys.executable}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={folder}",
            f"-DSPARROW_VERSION={self.distribution.get_version()}",
            f"-DSPARROW_CUDA={cuda_choice()}",
            f"-DSPARROW_TORCH_ROOT={torch.root}",
            f"-DSPARROW_TORCH_VERSION={torch.version}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            *os.environ.get("CMAKE_ARGS", "").split(),
        ]
        usual = Path("/usr/local/cuda/bin/nvcc")  # where toolkits go, and PATH often does not
        if tool("nvcc") is None and usual.exists():
            os.environ.setdefault("CUDACXX", str(usual))
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        compile_ = [cmake, "--build", build, "-j", jobs]
        if made := os.environ.get("SPARROW_BUILD_OPS"):
            compile_ += ["--target", "_C"]
        for command in (configure, compile_):
            subprocess.check_call([str(word) for word in command])
        if made:
            shutil.copy(made, folder / OPS_LIBRARY)

    def package_folder(self) -> Path:
        in_checkout = self.editable_mode or self.inplace
        return (ROOT if in_checkout else Path(self.build_lib).resolve()) / PACKAGE

    def get_outputs(self) -> list[str]:
        return [*super().get_outputs(), str(Path(self.build_lib) / PACKAGE / OPS_LIBRARY)]


setup(
    ext_modules=[] if why_not_native() else [Extension(f"{PACKAGE}._C", [])],
    cmdclass={"build_py": BuildPython, "build_ext": BuildNative},
)
