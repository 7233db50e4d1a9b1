"""The form that the Kernel Hub builds from, made anew from the tree."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import build_hub
import sparrow_kernels
from sparrow_kernels.ops.library import _LIBRARY_FILE

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "torch-ext/sparrow_kernels"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "hub"
    command = [sys.executable, ROOT / "build_hub.py", out, "--repo-id", "somebody/sparrow-kernels"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out


def foreign_imports(text: str, file: Path, package: Path) -> list[str]:
    """Imports of `file` that are neither torch's, triton's, Python's nor found in the package."""
    known = {*sys.stdlib_module_names, "torch", "triton"}
    found = []
    for node in ast.walk(ast.parse(text, feature_version=(3, 10))):  # the oldest with a torch 2.11
        if isinstance(node, ast.Import):
            found += [each.name for each in node.names if each.name.split(".")[0] not in known]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found += [] if str(node.module).split(".")[0] in known else [str(node.module)]
        elif isinstance(node, ast.ImportFrom):
            place = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            inside = place.is_relative_to(package)
            is_there = place.is_dir() or place.with_suffix(".py").exists()
            if not inside or not (is_there or place == package / "_ops"):  # kernel-builder's own
                found.append(f"{'.' * node.level}{node.module or ''}")
        elif isinstance(node, ast.Name) and node.id in ("import_module", "__import__"):
            found.append(node.id)
    return found


def test_the_python_imports_itself_relatively_and_nothing_but_torch(hub: Path) -> None:
    package = hub / PACKAGE
    files = sorted(package.rglob("*.py"))
    ours = {path.relative_to(ROOT) for path in (ROOT / "sparrow_kernels/ops").rglob("*.py")}
    assert {path.relative_to(hub / "torch-ext") for path in files} >= ours
    for path in files:
        text = path.read_text()
        assert foreign_imports(text, path, package) == [], path
        # Any fixed namespace would be that of every version in the process.
        assert not re.search(r"ops\.sparrow|[\"']sparrow(_native)?(::|[\"'])", text), path
    for bad in (
        "import numpy",
        "from sparrow_kernels import y",
        "from .no import x",
        "from ... import y",
    ):
        assert len(foreign_imports(bad, package / "ops" / "any.py", package)) == 1, bad


def test_what_cannot_be_made_relative_is_refused() -> None:
    file = Path("sparrow_kernels/ops/tree/api.py")
    text = "if True:\n    from sparrow_kernels.ops.tree import ops  # and why\n"
    assert build_hub.relative(text, file) == "if True:\n    from . import ops  # and why\n"
    for module, place in (
        ("sparrow_kernels.ops", ".."),
        ("sparrow_kernels.ops.accept.ops", "..accept.ops"),
        ("sparrow_kernels.ops.tree.checks", ".checks"),
    ):
        assert build_hub.relative(f"from {module} import x\n", file) == f"from {place} import x\n"
    for text in ("import sparrow_kernels.ops\n", "from sparrow_kernels.models import x\n"):
        with pytest.raises(SystemExit, match=r"tree/api.py:1: "):
            build_hub.relative(text, file)


def test_build_toml_lists_all_that_cmake_compiles(hub: Path) -> None:
    build = tomllib.loads((hub / "build.toml").read_text())
    general, kernels = build["general"], build["kernel"].values()
    assert general["name"].replace("-", "_") == "sparrow_kernels" and general["edition"] == 5
    assert build["torch"]["stable-abi"] == {"cpu": "2.11", "cuda": "2.11"}
    for kernel in kernels:  # else a build's metadata would claim all that nvcc knows
        capabilities = kernel.get("cuda-capabilities", [])
        assert (capabilities == ["8.0", "8.6", "8.9", "9.0+PTX"]) == (kernel["backend"] == "cuda")
    listed = {
        backend: [
            name for kernel in kernels if kernel["backend"] == backend for name in kernel["src"]
        ]
        for backend in general["backends"]
    }
    host = {
        str(path.relative_to(ROOT))
        for folder in ("cpu", "bindings")
        for path in (ROOT / "csrc" / folder).glob("*.cpp")
        if path.name != "build_facts.cpp"
    }
    device = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc/cuda").glob("*.cu")}
    assert sorted(listed["cpu"]) == sorted(host)  # each once
    assert sorted(listed["cuda"]) == sorted(host | device)
    # kernel-builder copies what is listed and nothing else.
    headers = [name for name in build["torch"]["src"] if name.endswith(".h")]
    for name in {*listed["cuda"], *build["torch"]["src"]}:
        text = (hub / name).read_text()
        assert "pybind11" not in text
        for include in re.findall(r'^#include "([^"]+)"', text, re.MULTILINE):
            is_written = include == "registration.h"  # by kernel-builder
            assert is_written or f"csrc/{include}" in headers, f"{name} includes {include}"
    ours = (ROOT / "CMakeLists.txt").read_text()
    base = ours.split("target_compile_options(sparrow_base", 1)[1].split("\n\n")[0]
    flags = set(re.findall(r"-f[\w-]+(?:=\w+)?", base))
    assert flags and all(flags <= {*k["cxx-flags"]} for k in kernels if "cxx-flags" in k)
    assert "--fmad=false" in ours and "--fmad=false" in build["kernel"]["cuda"]["cuda-flags"]


def test_the_version_is_the_first_number_of_ours_wherever_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "sparrow_kernels").mkdir()
    (tmp_path / "sparrow_kernels/_version.py").write_text('__version__ = "12.3.4"\n')
    (tmp_path / "README.md").write_text("\n## Ops\n| op |\n\n## Next\n")
    assert 'get_kernel("us/ours", version=12)' in build_hub.card(tmp_path, "us/ours")
    ours = (ROOT / "hub/tests/test_ops.py").read_text()
    assert re.findall(r"VERSION = .*, (\d+)$", ours, re.MULTILINE) == [str(build_hub.major(ROOT))]


def test_card_and_tests_name_the_repository(hub: Path) -> None:
    card = (hub / "CARD.md").read_text()
    assert card.startswith("---\nlibrary_name: kernels\n") and "{{" not in card and "](" not in card
    assert "`commit_tree_(tokens, layout, target_tokens, …)`" in card
    for text in (card, (hub / "tests/test_ops.py").read_text(), (hub / "build.toml").read_text()):
        assert "somebody/sparrow-kernels" in text and build_hub.REPO_ID not in text


BESIDE = """
import importlib.util, sys, torch
spec = importlib.util.spec_from_file_location("_version_of_a_kernel", sys.argv[1])
kernel = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = kernel
before = set(sys.modules)  # an environment may import the package's torchvision shim at its start
spec.loader.exec_module(kernel)
assert not any(name.startswith("sparrow_kernels") for name in set(sys.modules) - before)
assert not hasattr(torch.ops.sparrow, "build_tree")
import sparrow_kernels
assert set(sys.argv[2].split()) == set(kernel.__all__), kernel.__all__
for name in kernel.__all__:
    assert getattr(kernel, name) is not getattr(sparrow_kernels, name), name

def run(ops, backend):
    with ops.backend(backend):
        layout = ops.build_tree(torch.tensor([[-1, 0, 0, 1]], dtype=torch.int32))
        query, cache = torch.randn(1, 4, 4, 64), torch.randn(1, 2, 32, 64)
        lengths = torch.tensor([20], dtype=torch.int32)
        out = ops.tree_attention(query, cache, cache, layout.ancestors, lengths)
        values, ids = ops.topk_logprobs(torch.randn(3, 50), 4)
        chosen = ops.sample_tokens(torch.rand(3, 50), torch.rand(3))
    return [*layout, out, values, ids, chosen]

for backend in ("native", "reference"):
    torch.manual_seed(0)
    theirs = run(kernel, backend)
    torch.manual_seed(0)
    for theirs, ours in zip(theirs, run(sparrow_kernels, backend), strict=True):
        assert torch.equal(theirs, ours)
assert hasattr(torch.ops.sparrow_native, "dispatched_tree_attention")
try:
    kernel.build_tree(torch.tensor([[-1, 5]], dtype=torch.int32))
except ValueError as error:
    assert "build_tree: parent" in str(error), error
else:
    raise AssertionError("a malformed parent passed")
query = torch.randn(1, 4, 2, 64, requires_grad=True)
words = torch.tensor([[[1], [3]]])
cache, lengths = torch.randn(1, 2, 8, 64), torch.tensor([3], dtype=torch.int32)
try:
    kernel.tree_attention(query, cache, cache, words, lengths)
except NotImplementedError as error:
    assert str(error).startswith("tree_attention: query must not require grad"), error
else:
    raise AssertionError("a gradient of zero")
"""


@pytest.mark.slow
@pytest.mark.skipif(not _LIBRARY_FILE.exists(), reason="built without native code")
def test_the_kernel_runs_beside_the_package(hub: Path, tmp_path: Path) -> None:
    """Under a name of its own, over this build's library in place of one that it would compile."""
    variant = shutil.copytree(hub / PACKAGE, tmp_path / "variant")
    (variant / "_ops.py").write_text(
        f"import torch\ntorch.ops.load_library({str(_LIBRARY_FILE)!r})\n"
        "ops = torch.ops.sparrow_native\n"
        "def add_op_namespace_prefix(name):\n    return f'sparrow_native::{name}'\n"
    )
    public = {n for n, home in sparrow_kernels._HOMES.items() if home.startswith("ops.")}
    run = [sys.executable, "-c", BESIDE, str(variant / "__init__.py"), " ".join(public)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_kernels_reads_the_build(hub: Path) -> None:
    pytest.importorskip("kernels", reason="the package kernels, which reads build.toml, is missing")
    from kernels._rust import Build

    assert sorted(map(str, Build.open(hub).general.backends)) == ["cpu", "cuda"]
    (hub / "build.toml").write_text((hub / "build.toml").read_text() + "\nunknown = 1\n")
    with pytest.raises(ValueError, match="unknown"):
        Build.open(hub)


@pytest.mark.skipif(not _LIBRARY_FILE.exists(), reason="built without native code")
def test_the_abi_checker_finds_nothing_of_python() -> None:
    """What a build on this machine can show: which glibc is asked for is its toolchain's matter."""
    checker = pytest.importorskip("kernel_abi_check", reason="kernel-abi-check is missing")
    built = checker.ObjectFile(_LIBRARY_FILE)
    assert built.check_python_abi("3.9") == []
    [module] = _LIBRARY_FILE.parent.glob("_C.*.so")
    assert checker.ObjectFile(module).check_python_abi("3.9") != []
