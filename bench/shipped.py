"""Every kernel the package ships, compiled for every architecture that is held: CUDA kernels from
the built library, Triton kernels ahead of time.

A family's Triton kernels are listed in `ops/*/triton/*shipped.py`, in a function `shipped(arch)`.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import cubin

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sparrow_kernels"
LIBRARY = PACKAGE / "libsparrow_ops.so"
ARCHITECTURES = (80, 90)
UNFENCED = " unfenced"
"""How kernels are named that must not have a warpgroup's products."""
_DEPENDENT = re.compile(r"(merge_tiles|draw)<|merge of \d+ x ")
"""Those that are launched to begin while the kernel before them is at work."""


@dataclass(frozen=True)
class Compiled:
    """One kernel for one architecture, as the compiler left it."""

    name: str
    arch: int
    kernel: cubin.Kernel
    smem_bytes: int
    """Static and, where it is known before a launch, dynamic."""
    threads: int | None
    """Of the largest block it was compiled for; None where its source names none."""
    needs_tensor_cores: bool

    def hazards(self) -> list[str]:
        """Where it may read what it should not, in words."""
        found = [*self.kernel.hazards]
        if self.name.endswith(UNFENCED) and self.kernel.warpgroup_products > 0:
            found.append(f"{self.kernel.warpgroup_products} products of a warpgroup")
        if self.arch >= 90 and _DEPENDENT.match(self.name) and not self.kernel.waits:
            found.append("no wait for the kernel before it")
        return found

    def occupancy(self) -> float | None:
        """Where its block is known."""
        if self.threads is None:
            return None
        return cubin.occupancy(self.arch, self.threads, self.kernel.registers, self.smem_bytes)

    def in_flight(self) -> tuple[int | None, int | None]:
        """The wait distance of its main loop, and the bytes that it leaves on their way."""
        loop, share = self.kernel.main_loop, self.occupancy()
        if loop is None:
            return None, None
        if share is None:
            return loop.wait_distance, None
        threads = round(share * cubin.MULTIPROCESSORS[self.arch].warps) * cubin.WARP
        return loop.wait_distance, threads * loop.awaited_bytes

    def cycles(self) -> tuple[int | None, int | None, int | None]:
        """Of a turn of its main loop: four schedulers issue an instruction each, tensor cores do
        16-bit products at their highest rate, 16 exponentials are begun a clock."""
        loop = self.kernel.main_loop
        if loop is None or self.threads is None:
            return None, None, None
        warps = self.threads // cubin.WARP
        rate = cubin.MULTIPROCESSORS[self.arch].tensor_flops
        issue, tensor = loop.instructions * warps / 4, loop.tensor_flops * warps / rate
        return round(issue), round(tensor), round(loop.exps * cubin.WARP * warps / 16)


def digest(files: Iterable[Path], also: object = "") -> str:
    """Of the code in `files`, less comments on lines of their own, and of `also`, spelled out."""
    code = hashlib.sha256(repr(also).encode())
    for path in files:
        code.update(path.name.encode())
        comment = "#" if path.suffix in (".py", ".txt") else "//"
        for line in map(str.strip, path.read_text().splitlines()):
            if line and not line.startswith(comment):
                code.update(line.encode() + b"\n")
    return code.hexdigest()[:12]


# --- CUDA ----------------------------------------------------------------------------------------


def cuda_files() -> list[Path]:
    """What CUDA kernels are made of."""
    found = [*(ROOT / "csrc/cuda").rglob("*"), *(ROOT / "csrc/kernels").rglob("*")]
    return sorted(path for path in found if path.suffix in (".cu", ".cuh", ".h"))


def cuda_digest() -> str:
    """Of their sources, and of how they are compiled."""
    return digest([*cuda_files(), ROOT / "CMakeLists.txt"])


def cuda_unavailable() -> str | None:
    """Why the CUDA kernels cannot be read, None if they can."""
    if not LIBRARY.exists():
        return "the native library is not built"
    if not cuda_compiler():
        return "the native library was built without CUDA (no nvcc, or SPARROW_BUILD_CUDA=0)"
    newest = max(cuda_files(), key=lambda path: path.stat().st_mtime)
    if newest.stat().st_mtime > LIBRARY.stat().st_mtime:
        name = newest.relative_to(ROOT)
        return f"{name} is newer than the native library: build it first (make setup)"
    return _no_disassembler()


def cuda_compiler() -> str:
    """Such as "nvcc 13.0.88"; empty where no CUDA kernels are built."""
    try:
        facts = importlib.import_module("sparrow_kernels._C")
    except ImportError:
        return ""
    return str(facts.cuda_compiler)


def cuda_kernels() -> Iterator[Compiled]:
    """Every CUDA kernel of the built library."""
    with tempfile.TemporaryDirectory() as folder:
        for arch, cubins in _library_cubins(folder):
            kernels = [kernel for path in cubins for kernel in cubin.read(path, arch)]
            names = plain_names([kernel.symbol for kernel in kernels])
            for name, kernel in zip(names, kernels, strict=True):
                yield Compiled(name, arch, kernel, kernel.smem_bytes, kernel.threads, False)


def cuda_names() -> list[tuple[str, int]]:
    """The name and architecture of each of them."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            (name, arch)
            for arch, cubins in _library_cubins(folder)
            for name in plain_names([symbol for path in cubins for symbol in cubin.symbols(path)])
        ]


def _library_cubins(folder: str) -> list[tuple[int, list[Path]]]:
    cubins = cubin.extract(LIBRARY, Path(folder))
    return [(arch, cubins.get(arch, [])) for arch in ARCHITECTURES]


def plain_names(symbols: list[str]) -> list[str]:
    """Kernels as their source names them, template arguments included: no namespaces, which hold
    a hash of the build folder, and no parameters."""
    command = ["c++filt", "--no-params", *symbols]
    done = subprocess.run(command, capture_output=True, text=True, check=True) if symbols else None
    lines = done.stdout.splitlines() if done is not None else []
    return [_without_namespaces(line) for line in lines]


def _without_namespaces(name: str) -> str:
    name = re.sub(r"\(anonymous namespace\)", "anonymous", name)
    name = re.sub(r"\((?:unsigned |signed )?\w+\)", "", name)  # (int)4, a value of a template
    name = re.sub(r"(?:\w+::)+", "", name).replace("> >", ">>")
    return re.sub(r"^(?:void|int) (?=\w)", "", name)


# --- Triton --------------------------------------------------------------------------------------


def triton_unavailable() -> str | None:
    """Why the Triton kernels cannot be compiled, None if they can."""
    if not triton_compiler():
        return "triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "TRITON_INTERPRET=1: an interpreter compiles nothing"
    return _no_disassembler()


def triton_compiler() -> str:
    """Such as "triton 3.9.0"; empty where there is none."""
    try:
        return f"triton {importlib.import_module('triton').__version__}"
    except ImportError:
        return ""


def triton_entries(arch: int) -> list[Any]:
    """Every `Shipped` of every family, by name."""
    found = []
    for path in sorted((PACKAGE / "ops").glob("*/triton*/*shipped.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found += importlib.import_module(module).shipped(arch)
    return sorted(found, key=lambda entry: entry.name)


def triton_digest(entry: Any) -> str:
    """Of its configuration and of every file that holds a kernel, as kernels call one another."""
    files = sorted((PACKAGE / "ops").glob("*/triton*/*.py"))
    kernels = [path for path in files if "@triton.jit" in path.read_text()]
    configuration = {name: entry.constexprs[name] for name in sorted(entry.constexprs)}
    types, aligned = sorted(entry.signature.items()), sorted(entry.attrs)
    made = (types, configuration, aligned, entry.num_warps, entry.num_stages)
    return digest(kernels, made if entry.most_registers is None else (*made, entry.most_registers))


def triton_kernel(entry: Any, arch: int) -> Compiled:
    """Compile one configuration for one architecture. Triton keeps what it compiled in its cache,
    by a hash of its source: in `build/triton` unless TRITON_CACHE_DIR says otherwise."""
    os.environ.setdefault("TRITON_CACHE_DIR", str(ROOT / "build/triton"))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(
        entry.kernel,
        signature=entry.signature,
        constexprs=entry.constexprs,
        attrs=entry.attrs,
    )
    options = {"num_warps": entry.num_warps, "num_stages": entry.num_stages}
    if entry.most_registers is not None:
        options["maxnreg"] = entry.most_registers
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        (kernel,) = cubin.read(path, arch)
    smem_bytes = kernel.smem_bytes + compiled.metadata.shared
    threads = kernel.threads or 32 * entry.num_warps
    return Compiled(entry.name, arch, kernel, smem_bytes, threads, entry.tensor_cores)


def _no_disassembler() -> str | None:
    try:
        cubin.cuobjdump()
    except FileNotFoundError as error:
        return str(error)
    return None
