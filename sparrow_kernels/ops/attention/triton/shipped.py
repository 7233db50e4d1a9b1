"""What is compiled ahead of time of tree attention, its mass, the merge and the anchor index.

Every configuration that its architecture uses, in bfloat16 (float16 has the same sizes) and float32
for a group of 7, a cache of usual strides and one word of ancestors: with and without anchors; keys
in pages or with a bias; for 9.0 float8 caches, and what runs where Triton leaves out a fence. A
padded head dim and float16, each in the tightest.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch

from sparrow_kernels.ops.attention.triton import mass, merge, tree
from sparrow_kernels.ops.attention.triton.anchors import BLOCK, anchor_kernel
from sparrow_kernels.ops.attention.triton.configurations import (
    UNFENCED,
    Configuration,
    configurations,
    most_registers,
    padded_head_dim,
    splits_tile,
)
from sparrow_kernels.ops.attention.triton.mass import join_kernel, lse_kernel, mass_kernel
from sparrow_kernels.ops.attention.triton.mass_launch import JOIN_ROWS, lse_tiles, tiles
from sparrow_kernels.ops.attention.triton.merge import (
    BLOCK_R,
    parts_kernel,
    splits_kernel,
    splits_warps,
)
from sparrow_kernels.ops.attention.triton.shipped_type import Shipped
from sparrow_kernels.ops.attention.triton.tree import tree_kernel

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_HEAD_DIMS = (64, 128, 256)  # of the table
_GROUP = 7
_PAGE = 16
_INDIRECT = {"pages": {"block_table_ptr": "*i32"}, "bias": {"key_bias_ptr": "*fp32"}}
_MORE = (None, *_INDIRECT)
_EITHER = (False, True)
_ALIGNED = [["tt.divisibility", 16]]


def shipped(arch: int) -> list[Shipped]:
    """The kernels that a GPU of `arch` (80 or 90) runs, each once."""
    found = []
    for dtype, head_dim, anchored, more in product(("bf16", "fp32"), _HEAD_DIMS, _EITHER, _MORE):
        for each in _table(arch, dtype, head_dim, anchored, more):
            found.append(_tree(dtype, head_dim, anchored, each, arch, more))
    for dtype, head_dim in (("bf16", 96), ("fp16", 128)):
        *_, tightest = _table(arch, dtype, head_dim, False, None)
        found.append(_tree(dtype, head_dim, False, tightest, arch))
    for dtype, head_dim in (("bf16", 64), ("bf16", 128), ("bf16", 256), ("fp32", 128)):
        found += _mass(dtype, head_dim, arch)
    found += [*_mass("bf16", 128, arch, paged=True), _join()]
    if arch >= 90:
        for head_dim, anchored, more in product(_HEAD_DIMS, _EITHER, _MORE):
            for each in _table(arch, "bf16", head_dim, anchored, more, float8=True):
                found.append(_tree("bf16", head_dim, anchored, each, arch, more, float8=True))
        for each in _table(arch, "fp16", 128, False, None, float8=True):
            found.append(_tree("fp16", 128, False, each, arch, float8=True))
        found += _unfenced(arch)
        for entry in _mass("bf16", 128, UNFENCED):
            found.append(entry._replace(name=f"{entry.name} unfenced"))
    merges = (("bf16", 128, 64), ("bf16", 128, 128), ("bf16", 256, 128), ("fp32", 128, 16))
    found += [_merge(*each, arch >= 90) for each in merges]
    return [*found, _parts("bf16"), _anchors()]


def _unfenced(arch: int) -> list[Shipped]:
    """What is run in place of 16-bit tiles with a warpgroup's products, but for tiles of both."""
    found = []
    for head_dim, anchored, more, float8 in product(_HEAD_DIMS, _EITHER, _MORE, _EITHER):
        case = ("bf16", head_dim, anchored, more, float8)
        usual = _table(arch, *case)
        for each in _table(UNFENCED, *case):
            if each not in usual:
                entry = _tree("bf16", head_dim, anchored, each, arch, more, float8)
                found.append(entry._replace(name=f"{entry.name} unfenced"))
    return found


def _table(
    arch: int, dtype: str, head_dim: int, anchored: bool, more: str | None, float8: bool = False
) -> Sequence[Configuration]:
    """Each row once. `more`: one of `_MORE`."""
    indirect, biased = more is not None, more == "bias"
    found = configurations(arch, _DTYPES[dtype], head_dim, anchored, indirect, biased, float8)
    return tuple(dict.fromkeys(found))


def _tree(
    dtype: str,
    head_dim: int,
    anchored: bool,
    configuration: Configuration,
    arch: int,
    more: str | None = None,
    float8: bool = False,
) -> Shipped:
    """`more`: one of `_INDIRECT`."""
    second = f"+{configuration.block_m1}" if configuration.block_m1 else ""
    name = f"tree_attention D{head_dim} {dtype} M{configuration.block_m0}{second}"
    tensors = dict.fromkeys(("query_ptr", "key_ptr", "value_ptr", "out_ptr"), f"*{dtype}")
    tensors |= {"ancestors_ptr": "*i64", "prefix_lens_ptr": "*i32", "lse_ptr": "*fp32"}
    if anchored:
        tensors |= dict.fromkeys(
            ("anchor_slots_ptr", "anchor_count_ptr", "anchor_rank_ptr", "depth_ptr"), "*i32"
        )
    if more is not None:
        tensors |= _INDIRECT[more]
    if float8:
        tensors |= dict.fromkeys(("key_ptr", "value_ptr"), "*fp8e4nv")
        tensors |= dict.fromkeys(("key_scale_ptr", "value_scale_ptr"), "*fp32")
    constants = {
        "G": _GROUP,
        "SIGN": 1,
        "D": head_dim,
        "BLOCK_D": padded_head_dim(head_dim),
        "BLOCK_M0": configuration.block_m0,
        "BLOCK_M1": configuration.block_m1,
        "BLOCK_N": configuration.block_n,
        "BLOCK_T": configuration.block_t,
        "PAGE": _PAGE if more == "pages" else 0,
        **dict.fromkeys(("KEY_PAGE", "VALUE_PAGE"), _PAGE * head_dim if more == "pages" else 0),
        "DEPENDENT": arch >= 90,
    }
    return Shipped(
        name
        + (" anchors" if anchored else "")
        + (f" {more}" if more else "")
        + (" float8" if float8 else ""),
        tree_kernel,
        *_arguments(
            tree_kernel,
            tensors | {"scale_log2": "fp32"},
            constants,
            aligned=("query_stride", "key_stride", "value_stride", "out_stride"),
            any_alignment=tree.ANY_ALIGNMENT,
        ),
        configuration.num_warps,
        configuration.num_stages,
        dtype != "fp32" and configuration.block_m0 >= 32,
        most_registers(configuration, more is not None),
    )


def _mass(dtype: str, head_dim: int, arch: int, paged: bool = False) -> list[Shipped]:
    """The masses, and the log-sum-exps where they have a kernel."""
    kinds = [("attention_mass", mass_kernel, tiles(arch, _DTYPES[dtype], head_dim))]
    of_lse = lse_tiles(arch, _DTYPES[dtype], head_dim, paged)
    if of_lse is not None:
        kinds.append(("log-sum-exp of attention_mass", lse_kernel, of_lse.cut))
    tensors = dict.fromkeys(("query_ptr", "key_ptr"), f"*{dtype}")
    tensors |= {"prefix_lens_ptr": "*i32", "lse_ptr": "*fp32", "scale_log2": "fp32"}
    if paged:
        tensors |= _INDIRECT["pages"]
    found = []
    for name, kernel, cut in kinds:
        constants = {
            "D": head_dim, "BLOCK_D": padded_head_dim(head_dim), "BLOCK_M": cut.block_m,
            "BLOCK_N": cut.block_n, "PAGE": _PAGE if paged else 0,
        }  # fmt: skip
        if kernel is mass_kernel:
            types: dict[str, str] = tensors | {"mass_ptr": "*fp32"}
        else:
            types, constants = tensors, constants | {"SIGN": 1}
        arguments = _arguments(kernel, types, constants, ("key_stride",), mass.ANY_ALIGNMENT)
        name = f"{name} D{head_dim} {dtype}" + (" pages" if paged else "")
        warps, stages = cut.num_warps, cut.num_stages
        found.append(Shipped(name, kernel, *arguments, warps, stages, dtype != "fp32"))
    return found


def _join() -> Shipped:
    """Of sixteen splits of the log-sum-exps."""
    tensors = dict.fromkeys(("parts_ptr", "lse_ptr"), "*fp32")
    constants = {"BLOCK_M": JOIN_ROWS, "BLOCK_S": 16}
    arguments = _arguments(join_kernel, tensors, constants, (), mass.ANY_ALIGNMENT)
    return Shipped("join of 16 log-sum-exps", join_kernel, *arguments, 4, 3, False)


def _merge(dtype: str, head_dim: int, rows: int, dependent: bool) -> Shipped:
    """For splits of programs that hold so many rows."""
    tensors = {"parts_ptr": f"*{dtype}", "out_ptr": f"*{dtype}"}
    tensors |= {"lses_ptr": "*fp32", "lse_ptr": "*fp32"}
    block_r, block_s = splits_tile(rows)
    constants = {
        "D": head_dim, "BLOCK_D": head_dim, "BLOCK_R": block_r, "BLOCK_S": block_s,
        "DEPENDENT": dependent,
    }  # fmt: skip
    sorted_out = _arguments(splits_kernel, tensors, constants, ("out_stride",), merge.ANY_ALIGNMENT)
    name = f"merge of {block_r} x {block_s} splits D{head_dim} {dtype}"
    return Shipped(name, splits_kernel, *sorted_out, splits_warps(head_dim), 3, False)


def _parts(dtype: str) -> Shipped:
    """Two parts. What is in a tuple is named by its place in it."""
    of_parts: dict[str, Any] = {
        "parts": (f"*{dtype}", f"*{dtype}"),
        "lses": ("*fp32", "*fp32"),
        "part_strides": (("i32",) * 3,) * 2,
        "lse_strides": (("i32",) * 3,) * 2,
        "out_ptr": f"*{dtype}",
        "lse_ptr": "*fp32",
    }
    constants = {"D": 128, "BLOCK_D": 128, "BLOCK_R": BLOCK_R}
    signature, constexprs, attrs = _arguments(parts_kernel, of_parts, constants)
    attrs |= {(0, part): _ALIGNED for part in range(2)}
    attrs |= {(2, part, stride): _ALIGNED for part in range(2) for stride in range(3)}
    return Shipped(
        f"merge of two parts D128 {dtype}", parts_kernel, signature, constexprs, attrs, 4, 3, False
    )


def _anchors() -> Shipped:
    tensors = {"mask_ptr": "*u8"} | dict.fromkeys(("slots_ptr", "count_ptr", "rank_ptr"), "*i32")
    constants = {"BLOCK": BLOCK, "mask_stride_n": 1}
    return Shipped(
        "anchor_index", anchor_kernel, *_arguments(anchor_kernel, tensors, constants), 4, 3, False
    )


def _arguments(
    kernel: Any,
    types: dict[str, Any],
    constants: dict[str, Any],
    aligned: tuple[str, ...] = (),
    any_alignment: Sequence[str] = (),
) -> tuple[dict[str, Any], dict[str, Any], dict[tuple[int, ...], list[list[Any]]]]:
    """Signature, constexprs and attrs. Tensors not named are None, other arguments int32."""
    signature: dict[str, Any] = {}
    constexprs: dict[str, Any] = {}
    attrs: dict[tuple[int, ...], list[list[Any]]] = {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants or (name.endswith("_ptr") and name not in types):
            signature[name] = "constexpr"
            constexprs[name] = constants.get(name)
            continue
        signature[name] = types.get(name, "i32")
        if name in any_alignment:
            continue
        if name.endswith("_ptr") or name.startswith(aligned or ("-",)):
            attrs[(place,)] = _ALIGNED
    return signature, constexprs, attrs
