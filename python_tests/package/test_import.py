"""The package imports fast, and nothing that its user did not ask for."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import sparrow_kernels

SOURCE = Path(sparrow_kernels.__file__)
SHARE_OF_TORCH = 0.3  # of the time it takes to import
HEAVY = ("transformers", "triton", "sparrow_kernels.models")


def in_a_fresh_python(program: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    return json.loads(done.stdout)


# CPU seconds, beside torch's: neither what else runs on the machine counts, nor how fast it is.
MEASURE = """
import json, sys, time
for name in [name for name in sys.modules if name.startswith("sparrow_kernels")]:
    del sys.modules[name]  # `make setup` has every process prepare for torchvision
start = time.process_time()
import torch
torch_seconds = time.process_time() - start
before = set(sys.modules)
start = time.process_time()
import sparrow_kernels
{use}
seconds = time.process_time() - start
new = sorted(set(sys.modules) - before)
print(json.dumps({{"share": seconds / torch_seconds, "new": new}}))
"""


def heavy(modules: list[str]) -> list[str]:
    return [m for m in modules if any(m == h or m.startswith(h + ".") for h in HEAVY)]


@pytest.mark.slow
def test_importing_the_package_alone() -> None:
    run = in_a_fresh_python(MEASURE.format(use=""))
    assert heavy(run["new"]) == []
    assert run["share"] < SHARE_OF_TORCH
    own = [m for m in run["new"] if m.startswith("sparrow_kernels")]
    assert own == ["sparrow_kernels", "sparrow_kernels._version"]


@pytest.mark.slow
def test_using_the_ops_imports_nothing_heavy() -> None:
    ops = [name for name, home in sparrow_kernels._HOMES.items() if home.startswith("ops.")]
    use = f"for name in {ops}: getattr(sparrow_kernels, name)"
    run = in_a_fresh_python(MEASURE.format(use=use))
    assert heavy(run["new"]) == []
    assert run["share"] < SHARE_OF_TORCH


@pytest.mark.slow
def test_the_decoding_loop_needs_no_transformers() -> None:
    run = in_a_fresh_python(MEASURE.format(use="sparrow_kernels.TreeConfig"))
    assert heavy(run["new"]) == []


@pytest.mark.parametrize("name", sparrow_kernels.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(sparrow_kernels, name) is not None
    assert name in dir(sparrow_kernels)


def test_names_table_and_type_checking_imports_agree() -> None:
    for_checkers: dict[str, str] = {}
    for node in ast.walk(ast.parse(SOURCE.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sparrow_kernels."):
            home = str(node.module).removeprefix("sparrow_kernels.")
            for_checkers |= {alias.name: home for alias in node.names}
    assert for_checkers.pop("__version__") == "_version"
    assert for_checkers == sparrow_kernels._HOMES
    assert set(sparrow_kernels.__all__) == set(for_checkers) | {"__version__"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'sparrow_kernels' has no attribute 'accept_forest'"):
        sparrow_kernels.accept_forest  # noqa: B018
