"""What the library of ops asks of the process it is loaded into: no more than torch 2.11 has."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

import build_wheels
from build_wheels import beyond, torch_functions, undefined
from sparrow_kernels.ops.library import _LIBRARY_FILE

needs_nm = pytest.mark.skipif(shutil.which("nm") is None, reason="no nm to read symbols with")


@needs_nm
def test_the_library_asks_for_no_more_than_the_oldest_torch_has() -> None:
    stable = torch_functions()
    assert len(stable) > 100
    used = {name for _, name, _ in undefined(_LIBRARY_FILE)} & stable
    assert len(used) > 20
    assert beyond(_LIBRARY_FILE, stable) == []
    lost = sorted(used)[0]
    assert beyond(_LIBRARY_FILE, stable - {lost}) == [lost]


@needs_nm
def test_a_wheel_that_asks_for_more_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(_LIBRARY_FILE, build_wheels.OPS)
    stable = torch_functions()
    assert build_wheels.check_symbols(wheel, stable) > 20
    with pytest.raises(SystemExit, match="any.whl asks for .* lacks: aoti_torch_abi_version$"):
        build_wheels.check_symbols(wheel, stable - {"aoti_torch_abi_version"})
