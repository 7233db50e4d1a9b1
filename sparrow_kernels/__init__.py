"""Fused ops for speculative decoding in Video LLMs, and a thin decoder around them.

The public names, nothing else. Each is imported when it is first used: importing the package
imports neither transformers nor triton.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparrow_kernels._version import __version__

if TYPE_CHECKING:
    from sparrow_kernels.decoding import TreeConfig
    from sparrow_kernels.drafting import SparrowDraft
    from sparrow_kernels.models import SparrowDecoder, load_draft, sparrow_generate
    from sparrow_kernels.ops.accept import (
        accept_tree,
        accept_tree_residual,
        accept_tree_residual_logits,
        sample_logits,
        sample_tokens,
    )
    from sparrow_kernels.ops.attention import (
        anchor_index,
        anchored_window_attention,
        append_cache_,
        attention_mass,
        merge_attention,
        rotate_append_,
        tree_attention,
    )
    from sparrow_kernels.ops.env import backend, checks, values_are_checked
    from sparrow_kernels.ops.gather import (
        bind_caches,
        commit_path_,
        commit_tree_,
        compact_cache_,
        gather_hidden,
    )
    from sparrow_kernels.ops.tree import (
        build_tree,
        dense_tree_mask,
        pack_ancestors,
        select_tree,
        topk_logprobs,
        unpack_ancestors,
    )
    from sparrow_kernels.ops.types import Acceptance, AnchorIndex, Attended, TreeLayout

# Where each public name lives; `python_tests/package/test_import.py` holds this table, `__all__`
# and the imports above to one another.
_HOMES = {
    "Acceptance": "ops.types",
    "AnchorIndex": "ops.types",
    "Attended": "ops.types",
    "SparrowDecoder": "models",
    "SparrowDraft": "drafting",
    "TreeConfig": "decoding",
    "TreeLayout": "ops.types",
    "accept_tree": "ops.accept",
    "accept_tree_residual": "ops.accept",
    "accept_tree_residual_logits": "ops.accept",
    "anchor_index": "ops.attention",
    "anchored_window_attention": "ops.attention",
    "append_cache_": "ops.attention",
    "attention_mass": "ops.attention",
    "backend": "ops.env",
    "bind_caches": "ops.gather",
    "build_tree": "ops.tree",
    "checks": "ops.env",
    "commit_path_": "ops.gather",
    "commit_tree_": "ops.gather",
    "compact_cache_": "ops.gather",
    "dense_tree_mask": "ops.tree",
    "gather_hidden": "ops.gather",
    "load_draft": "models",
    "merge_attention": "ops.attention",
    "pack_ancestors": "ops.tree",
    "rotate_append_": "ops.attention",
    "sample_logits": "ops.accept",
    "sample_tokens": "ops.accept",
    "select_tree": "ops.tree",
    "sparrow_generate": "models",
    "topk_logprobs": "ops.tree",
    "tree_attention": "ops.attention",
    "unpack_ancestors": "ops.tree",
    "values_are_checked": "ops.env",
}

__all__ = [
    "Acceptance",
    "AnchorIndex",
    "Attended",
    "SparrowDecoder",
    "SparrowDraft",
    "TreeConfig",
    "TreeLayout",
    "__version__",
    "accept_tree",
    "accept_tree_residual",
    "accept_tree_residual_logits",
    "anchor_index",
    "anchored_window_attention",
    "append_cache_",
    "attention_mass",
    "backend",
    "bind_caches",
    "build_tree",
    "checks",
    "commit_path_",
    "commit_tree_",
    "compact_cache_",
    "dense_tree_mask",
    "gather_hidden",
    "load_draft",
    "merge_attention",
    "pack_ancestors",
    "rotate_append_",
    "sample_logits",
    "sample_tokens",
    "select_tree",
    "sparrow_generate",
    "topk_logprobs",
    "tree_attention",
    "unpack_ancestors",
    "values_are_checked",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value  # the next use finds it without this function
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
