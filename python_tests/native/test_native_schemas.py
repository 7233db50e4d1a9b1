"""The native library: what it was built from, and that its ops are `sparrow`'s ops."""

from __future__ import annotations

import pytest
import torch

import sparrow_kernels
import sparrow_kernels.ops.accept
import sparrow_kernels.ops.attention
import sparrow_kernels.ops.gather
import sparrow_kernels.ops.tree  # noqa: F401  (importing a family defines its ops)
from sparrow_kernels.ops import native
from sparrow_kernels.ops.registry import defined_ops

# What has a native implementation; which of them run on a GPU is written down.
ON_CPU_ALONE = (
    "tree_attention",
    "tree_attention_out",
    "merge_attention",
    "attention_mass",
    "anchored_window_attention",
    "anchored_window_attention_backward",
)
NATIVE = [op.name for op in defined_ops().values() if "native" in op.implementations]
OPS = [name for name in NATIVE if name not in ON_CPU_ALONE]


@pytest.mark.parametrize("name", NATIVE)
def test_schemas_agree(name: str) -> None:
    ours = getattr(torch.ops.sparrow, name).default._schema
    native = getattr(torch.ops.sparrow_native, name).default._schema
    assert str(native).replace("sparrow_native::", "sparrow::") == str(ours)


@pytest.mark.parametrize("name", OPS)
def test_cuda_tensors_are_taken_where_cuda_was_built(name: str) -> None:
    from sparrow_kernels import _C

    reason = native.unavailable_on_cuda(name)
    assert reason is None if _C.built_with_cuda else "built without CUDA" in str(reason)


@pytest.mark.parametrize("name", ON_CPU_ALONE)
def test_cuda_tensors_are_left_to_triton(name: str) -> None:
    from sparrow_kernels import _C

    reason = native.unavailable_on_cuda(name)
    assert reason is not None and ("not native" in reason) == _C.built_with_cuda


def test_build_facts() -> None:
    from sparrow_kernels import _C

    assert _C.version == sparrow_kernels.__version__
    assert _C.torch_version == torch.__version__
    assert _C.cxx_standard == 20
    assert _C.compiler
    assert _C.built_with_cuda == bool(_C.cuda_architectures) == bool(_C.cuda_compiler)
