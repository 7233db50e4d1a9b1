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

OPS = [
    "build_tree",
    "select_tree",
    "topk_logprobs",
    "accept_tree",
    "sample_tokens",
    "sample_logits",
    "accept_tree_residual",
    "accept_tree_residual_logits",
    "gather_hidden",
    "gather_hidden_out",
    "compact_cache_",
    "commit_path_",
    "commit_tree_",
    "append_cache_",
    "rotate_append_",
]


@pytest.mark.parametrize("name", OPS)
def test_schemas_agree(name: str) -> None:
    ours = getattr(torch.ops.sparrow, name).default._schema
    native = getattr(torch.ops.sparrow_native, name).default._schema
    assert str(native).replace("sparrow_native::", "sparrow::") == str(ours)


@pytest.mark.parametrize("name", OPS)
def test_cuda_tensors_are_taken_where_cuda_was_built(name: str) -> None:
    from sparrow_kernels import _C

    reason = native.unavailable_on_cuda(name)
    assert reason is None if _C.built_with_cuda else "built without CUDA" in str(reason)


def test_build_facts() -> None:
    from sparrow_kernels import _C

    assert _C.version == sparrow_kernels.__version__
    assert _C.torch_version == torch.__version__
    assert _C.cxx_standard == 20
    assert _C.compiler
    assert _C.built_with_cuda == bool(_C.cuda_architectures) == bool(_C.cuda_compiler)
