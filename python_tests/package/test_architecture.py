"""The layers of docs/design.md, held by reading imports and includes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from architecture import PACKAGE, Import, Source, is_inside

ROOT = Path(__file__).resolve().parents[2]
CORE = (
    "types",
    "registry",
    "transforms",
    "errors",
    "env",
    "fences",
    "native",
    "library",
    "values",
    "memory",
    "pages",
)
# Which layers a layer may import besides itself. An unlisted layer fails: it must be placed here.
LAYERS = {
    "ops": (),
    "decoding": ("ops",),
    "drafting": ("ops", "video_shim"),
    "video": (),
    "models": ("ops", "decoding", "drafting", "video", "video_shim", "releases"),
    "embedded": (),
    "training": ("ops", "decoding", "drafting", "models", "embedded", "video", "_version"),
    "measuring": ("ops", "decoding", "drafting", "models", "embedded", "video", "training"),
    # The commands that train, evaluate and compare call functions which are no library API, and
    # `sparrow env` asks the op registry which backend is available.
    "cli": (
        *("", "decoding", "embedded", "models", "training", "measuring", "video"),
        *("ops", "releases", "video_shim", "_version", "_C"),
    ),
    "integrations": ("",),
    "testing": ("",),
    "video_shim": (),
    "releases": (),
    "_version": (),
}
FAMILY_IMPORTS = {"gather": ("accept",)}
LONGEST = {".py": 300, ".h": 400, ".cuh": 400, ".cpp": 400, ".cu": 400}


def layer(module_or_file: str) -> str:
    """`ops` of sparrow_kernels.ops.tree or sparrow_kernels/ops/tree/api.py; "" is the root."""
    parts = module_or_file.removesuffix(".py").replace("/", ".").split(".")
    return "" if len(parts) == 1 or parts[1] == "__init__" else parts[1]


def layers(source: Source) -> list[str]:
    found = []
    for each in source.imports():
        own, other = layer(each.file), layer(each.module)
        if not is_inside(each.module, PACKAGE) or own in ("", other):
            continue  # the package's __init__ names everything; a layer may import itself
        if other not in LAYERS.get(own, ()):
            found.append(str(each))
    return found


def op_families(source: Source) -> list[str]:
    """Families import the core and themselves; others import a family, not what is behind it."""
    found = []
    for each in source.imports():
        if not is_inside(each.module, f"{PACKAGE}.ops"):
            continue
        target, own = each.module.split(".")[2:], _family(each)
        if not target or target[0] in CORE:
            allowed = own is not None or not target or target[0] in ("types", "env")
            allowed |= layer(each.file) == "cli" and target[0] in ("registry", "native", "fences")
            # What a recorded step calls is the function that the registry has chosen.
            allowed |= layer(each.file) == "decoding" and target[0] == "registry"
        elif own is None:
            allowed = len(target) == 1
        else:
            allowed = target[0] in (own, *FAMILY_IMPORTS.get(own, ()))
        if not allowed:
            found.append(str(each))
    return found


def _family(each: Import) -> str | None:
    """The family or core module a file of `ops` belongs to, None outside of `ops`."""
    parts = each.file.removesuffix(".py").split("/")
    return parts[2] if parts[1] == "ops" else None


def transformers(source: Source) -> list[str]:
    """Only models, what trains and measures it, and two files of drafting: the draft's
    PreTrainedModel shell."""
    found = [each for each in source.imports() if is_inside(each.module, "transformers")]
    shell = [f"{PACKAGE}/drafting/{name}.py" for name in ("config", "pretrained")]
    rooms = ("models", "training", "measuring")
    return [str(each) for each in found if layer(each.file) not in rooms and each.file not in shell]


def private_ground(source: Source) -> list[str]:
    """What transformers does not promise is used in `models` alone; of `models.bridge` others ask
    what a release calls things, and no more."""
    return [
        str(each)
        for each in [*source.imports(), *source.imports("bench", "examples")]
        if is_inside(each.module, f"{PACKAGE}.models.bridge")
        and layer(each.file) != "models"
        and not is_inside(each.module, f"{PACKAGE}.models.bridge.names")
    ]


def triton(source: Source) -> list[str]:
    """Only `ops/<family>/triton*.py`."""
    return [
        str(each)
        for each in source.imports()
        if is_inside(each.module, "triton")
        and not re.fullmatch(rf"{PACKAGE}/ops/\w+/triton\w*(/\w+)?\.py", each.file)
    ]


def benches(source: Source) -> list[str]:
    """Benches and examples use the public API, the testing helpers and whole layers; no insides
    of op families, but for the table of tiles, which `bench.plans` sweeps."""
    return [
        str(each)
        for each in source.imports("bench", "examples")
        if is_inside(each.module, f"{PACKAGE}.ops")
        and len(each.module.split(".")) > 3
        and (each.file, each.module) != ("bench/plans.py", f"{PACKAGE}.ops.{_TILES}")
    ]


_TILES = "attention.triton.configurations"


def includes(source: Source) -> list[str]:
    """Torch and pybind11 in csrc/bindings only; kernels include kernels and the toolkits."""
    outside = re.compile(r"(torch|ATen|c10|caffe2|pybind11|Python\.h)\b")
    # csrc/cpu and csrc/cuda know neither each other nor the bindings.
    not_its = {
        "csrc/kernels/": re.compile(r"(bindings|cpu|cuda)/"),
        "csrc/cpu/": re.compile(r"(bindings|cuda)/"),
        "csrc/cuda/": re.compile(r"(bindings|cpu)/"),
    }
    return [
        f"{file} includes {header}"
        for file, header in source.includes()
        if (outside.match(header) and not file.startswith("csrc/bindings/"))
        or any(file.startswith(each) and not_its[each].match(header) for each in not_its)
    ]


def lengths(source: Source) -> list[str]:
    others = [*(source.root / "python_tests").rglob("*.py"), *(source.root / "bench").rglob("*.py")]
    found = []
    for path in [*source.python, *source.native, *sorted(others)]:
        lines = len(path.read_text().splitlines())
        if lines > LONGEST[path.suffix]:
            found.append(f"{source.name(path)} has {lines} lines")
    return found


def rings(source: Source) -> list[str]:
    return source.cycle()


RULES = [layers, op_families, transformers, private_ground, triton, benches, includes]
RULES += [lengths, rings]


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_repository_keeps(rule: Callable[[Source], list[str]]) -> None:
    assert rule(Source(ROOT)) == []


BREACHES = [
    (layers, "sparrow_kernels/decoding/loop.py", "from sparrow_kernels.drafting import x"),
    (layers, "sparrow_kernels/ops/tree/api.py", "import sparrow_kernels.models"),
    (layers, "sparrow_kernels/ops/tree/api.py", "from ...decoding import x"),
    (layers, "sparrow_kernels/models/decoder.py", "from sparrow_kernels.embedded import clips"),
    (layers, "sparrow_kernels/integrations/sglang.py", "from sparrow_kernels.ops.tree import x"),
    (layers, "sparrow_kernels/newcomer/file.py", "def f():\n    import sparrow_kernels.ops"),
    (op_families, "sparrow_kernels/ops/tree/api.py", "import sparrow_kernels.ops.accept"),
    (op_families, "sparrow_kernels/ops/accept/api.py", "from sparrow_kernels.ops import gather"),
    (op_families, "sparrow_kernels/ops/registry.py", "from sparrow_kernels.ops import tree"),
    (op_families, "sparrow_kernels/models/a.py", "from sparrow_kernels.ops.tree import api"),
    (op_families, "sparrow_kernels/models/a.py", "import sparrow_kernels.ops.registry"),
    (transformers, "sparrow_kernels/embedded/a.py", "def f():\n    import transformers.utils"),
    (transformers, "sparrow_kernels/drafting/second.py", "from transformers import x"),
    (private_ground, "bench/case.py", "from sparrow_kernels.models.bridge.view import x"),
    (private_ground, "sparrow_kernels/training/a.py", "import sparrow_kernels.models.bridge.cache"),
    (triton, "sparrow_kernels/ops/tree/api.py", "import triton.language as tl"),
    (triton, "sparrow_kernels/models/triton.py", "import triton"),
    (benches, "bench/case.py", "from sparrow_kernels.ops.tree.reference import x"),
    (includes, "csrc/kernels/tree/a.h", "#include <torch/extension.h>"),
    (includes, "csrc/cuda/a.cu", '  #  include "ATen/ATen.h"'),
    (includes, "csrc/kernels/tree/a.h", '#include "cpu/tree.h"'),
    (includes, "csrc/cpu/a.cpp", '#include "cuda/tree.h"'),
    (includes, "csrc/cuda/a.cu", '#include "cpu/tree.h"'),
    (lengths, "sparrow_kernels/long.py", "x = 1\n" * 301),
    (lengths, "csrc/kernels/long.h", "//\n" * 401),
    (rings, "sparrow_kernels/ops/tree/reference.py", "import sparrow_kernels.ops.tree.api"),
]


@pytest.mark.parametrize(("rule", "file", "text"), BREACHES)
def test_a_breach_is_found(
    rule: Callable[[Source], list[str]], file: str, text: str, tmp_path: Path
) -> None:
    sound = {
        "sparrow_kernels/ops/tree/__init__.py": "",
        "sparrow_kernels/ops/tree/api.py": "from sparrow_kernels.ops.tree import reference",
        "sparrow_kernels/ops/tree/reference.py": "",
        "sparrow_kernels/ops/accept/__init__.py": "",
        "sparrow_kernels/ops/gather/__init__.py": "from sparrow_kernels.ops.accept import x",
        "sparrow_kernels/drafting/pretrained.py": "from transformers import PreTrainedModel",
        "sparrow_kernels/decoding/__init__.py": "from sparrow_kernels.ops.tree import build_tree",
        "csrc/bindings/tree.cpp": "#include <torch/csrc/stable/library.h>",
    }

    def write(name: str, content: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    for name, content in sound.items():
        write(name, content)
    assert rule(Source(tmp_path)) == []
    write(file, text)
    assert len(rule(Source(tmp_path))) > 0
