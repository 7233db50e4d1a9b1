"""Reads what a compiler made of a kernel from its cubin: no GPU is needed.

Registers, stack and static shared memory are what `cuobjdump -res-usage` says; instructions are
counted in its disassembly; the block size a kernel was compiled for stands in the ELF file's
`.nv.info` section; what its loops wait for, `bench.sass` reads. `cuobjdump` comes with the CUDA
toolkit and with triton.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bench import listings, sass

KIB = 1024


@dataclass(frozen=True)
class Kernel:
    """One kernel of a cubin, by the name the compiler gave it."""

    symbol: str
    registers: int
    smem_bytes: int
    """Static; what a launch adds is not in the cubin."""
    stack_bytes: int
    spill_bytes: int
    """Bytes a thread stores to local memory, each instruction once: what ptxas reports as spill
    stores. The report itself is not in a cubin. An array that is indexed at run time is stored the
    same way, so such a kernel is listed by name, with its reason, where it is judged."""
    tensor_core_ops: int
    async_copies: int
    threads: int | None
    """The largest block it was compiled for; None where the source names none."""
    main_loop: sass.Loop | None = None
    """None: no loop of it copies asynchronously."""
    gpu_fences: int = 0
    """Fences that wait for the whole GPU."""
    hazards: tuple[str, ...] = ()
    """Where it may read what it should not, in words."""
    warpgroup_products: int = 0
    waits: bool = False
    """For the kernel before it in its stream to end."""


@dataclass(frozen=True)
class Multiprocessor:
    """What the blocks on one multiprocessor share."""

    registers: int
    smem_bytes: int
    warps: int
    blocks: int
    tensor_flops: int
    """16-bit, a clock."""


# CUDA C++ programming guide, technical specifications per compute capability.
MULTIPROCESSORS = {
    80: Multiprocessor(64 * KIB, 164 * KIB, 64, 32, 2048),
    90: Multiprocessor(64 * KIB, 228 * KIB, 64, 32, 4096),
}
_RESERVED_SMEM = KIB  # of each block, by the system, from sm_80 on
WARP, _PARTITIONS = 32, 4
_REGISTER_UNIT, _SMEM_UNIT = 256, 128  # what registers of a warp, and shared memory, come in

TENSOR_CORE = re.compile(r"(HMMA|HGMMA)\b")
_WARPGROUP = re.compile(r"HGMMA\b")
ASYNC_COPY = re.compile(r"(LDGSTS|UTMALDG|UTMASTG|UTMAREDG|UBLKCP)\b")
_LOCAL_STORE = re.compile(r"STL\b")
_WIDTHS = {"8": 1, "U8": 1, "S8": 1, "16": 2, "U16": 2, "S16": 2, "64": 8, "128": 16}


def cuobjdump() -> str:
    """The disassembler to use; `FileNotFoundError` where there is none."""
    found = shutil.which("cuobjdump")
    triton = find_spec("triton")
    if found is None and triton is not None and triton.origin is not None:
        shipped = Path(triton.origin).parent / "backends/nvidia/bin/cuobjdump"
        found = str(shipped) if shipped.exists() else None
    if found is None:
        raise FileNotFoundError("no cuobjdump: neither a CUDA toolkit on PATH nor triton")
    return found


def extract(library: Path, folder: Path) -> dict[int, list[Path]]:
    """Write the cubins of a shared library to `folder`; by architecture, in the library's order."""
    _dump("-xelf", "all", str(library.resolve()), cwd=folder)
    cubins: dict[int, list[Path]] = {}
    for path in sorted(folder.glob("*.cubin")):
        arch = re.search(r"\.sm_(\d+)a?\.", path.name)
        if arch is not None:
            cubins.setdefault(int(arch.group(1)), []).append(path)
    return cubins


def symbols(cubin: Path) -> list[str]:
    """The kernels of a cubin, without disassembling it."""
    return list(_usage(cubin))


def read(cubin: Path, arch: int) -> list[Kernel]:
    """Every kernel of a cubin that was compiled for `arch`, such as 90."""
    usage, threads = _usage(cubin), _threads(cubin.read_bytes())
    kernels = []
    listing = listings.kept(cubin, cuobjdump(), lambda: _dump("-sass", str(cubin)))
    for symbol, code in sass.kernels(listing):
        opcodes = Counter(instruction.opcode for instruction in code)
        counts = usage[symbol]
        static = counts["SHARED"]
        if arch >= 90 and static > 0:  # there the reserved bytes are counted along
            static -= _RESERVED_SMEM
        kernels.append(
            Kernel(
                symbol,
                registers=counts["REG"],
                smem_bytes=static,
                stack_bytes=counts["STACK"],
                spill_bytes=_bytes(opcodes, _LOCAL_STORE),
                tensor_core_ops=_count(opcodes, TENSOR_CORE),
                async_copies=_count(opcodes, ASYNC_COPY),
                threads=threads.get(symbol),
                main_loop=sass.main_loop(code),
                gpu_fences=sass.gpu_fences(code),
                hazards=tuple(sass.hazards(code)),
                warpgroup_products=_count(opcodes, _WARPGROUP),
                waits="ACQBULK" in opcodes,
            )
        )
    return kernels


def occupancy(arch: int, threads: int, registers: int, smem_bytes: int) -> float:
    """Resident warps / most warps of a multiprocessor, with nothing else on it.

    blocks = min(warps that find registers / warps of a block, most warps / warps of a block,
    shared memory / (the block's + 1 KiB), most blocks). A warp's registers come in units of 256 and
    live in one of four partitions.
    """
    chip = MULTIPROCESSORS[arch]
    warps = -(-threads // WARP)
    a_warp = _round_up(registers * WARP, _REGISTER_UNIT)
    by_registers = chip.registers // _PARTITIONS // a_warp * _PARTITIONS // warps
    by_smem = chip.smem_bytes // _round_up(smem_bytes + _RESERVED_SMEM, _SMEM_UNIT)
    blocks = min(by_registers, chip.warps // warps, by_smem, chip.blocks)
    return blocks * warps / chip.warps


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _dump(*arguments: str, cwd: Path | None = None) -> str:
    command = [cuobjdump(), *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _usage(cubin: Path) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    report = _dump("-res-usage", str(cubin))
    for symbol, numbers in re.findall(r"Function (\S+):\s*\n\s*(REG:.*)", report):
        found[symbol] = {name: int(value) for name, value in re.findall(r"(\w+):(\d+)", numbers)}
    return found


def _count(opcodes: Counter[str], pattern: re.Pattern) -> int:
    return sum(count for opcode, count in opcodes.items() if pattern.match(opcode))


def _bytes(opcodes: Counter[str], pattern: re.Pattern) -> int:
    total = 0
    for opcode, count in opcodes.items():
        if pattern.match(opcode):
            widths = [_WIDTHS[part] for part in opcode.split(".")[1:] if part in _WIDTHS]
            total += count * (widths[0] if widths else 4)
    return total


_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")  # ELF64: name, type, flags, address, offset, size…
_BLOCK_DIMS = (0x05, 0x10)  # EIATTR_MAX_THREADS, EIATTR_REQNTID: three of them
_SIZED_VALUE = 0x04  # EIFMT_SVAL: its size stands in two bytes; other formats take four in all


def _threads(elf: bytes) -> dict[str, int]:
    """Threads of the largest block each kernel was compiled for, where it says so."""
    found = {}
    for name, data in _sections(elf):
        kernel = name.removeprefix(".nv.info.")
        if kernel == name:
            continue
        place = 0
        while place + 4 <= len(data):
            kind, attribute, size = struct.unpack_from("<BBH", data, place)
            place += 4
            if kind != _SIZED_VALUE:
                continue
            if attribute in _BLOCK_DIMS:
                x, y, z = struct.unpack_from("<III", data, place)
                found[kernel] = x * y * z
            place += size
    return found


def _sections(elf: bytes) -> Iterator[tuple[str, bytes]]:
    (start,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names_at = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [_SECTION_HEADER.unpack_from(elf, start + n * size) for n in range(count)]
    names = headers[names_at][4]
    for header in headers:
        first = names + header[0]
        name = elf[first : elf.index(b"\0", first)].decode()
        yield name, elf[header[4] : header[4] + header[5]]
