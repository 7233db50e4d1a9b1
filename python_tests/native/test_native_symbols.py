"""What the library of ops asks of the process it is loaded into: no more than torch 2.11 has."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sparrow_kernels.ops.library import _LIBRARY_FILE

STABLE = Path(__file__).parents[1] / "cases" / "stable_abi_2_11.txt"
# Of glibc, the C++ and compiler runtimes: manylinux_2_34's. Each symbol of theirs has a version.
NEWEST = {"GLIBC": (2, 34), "GLIBCXX": (3, 4, 29), "CXXABI": (1, 3, 13), "GCC": (12,)}
_OF_THE_LINKER = {"__gmon_start__", "_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable"}

needs_nm = pytest.mark.skipif(shutil.which("nm") is None, reason="no nm to read symbols with")


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
        elif kind != "w" and name not in stable | _OF_THE_LINKER:
            found.append(name)
    return found


@needs_nm
def test_the_library_asks_for_no_more_than_the_oldest_torch_has() -> None:
    stable = {line for line in STABLE.read_text().splitlines() if not line.startswith("#")}
    assert len(stable) > 100
    used = {name for _, name, _ in undefined(_LIBRARY_FILE)} & stable
    assert len(used) > 20
    assert beyond(_LIBRARY_FILE, stable) == []
    lost = sorted(used)[0]
    assert beyond(_LIBRARY_FILE, stable - {lost}) == [lost]
