"""What is compiled ahead of time of anchored window attention: its kernels, most in four sizes.

Each row of the table of tiles that usual models use, and the hardest of the padded head dims.
float16 and bfloat16 share tiles and compile alike, so each comes up once; so do 96 and 80.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sparrow_kernels.ops.attention.triton.shipped_type import Shipped
from sparrow_kernels.ops.attention.triton.window_forward import forward_kernel
from sparrow_kernels.ops.attention.triton.window_key_grad import (
    ADDED_ROWS,
    add_splits_kernel,
    key_grad_kernel,
)
from sparrow_kernels.ops.attention.triton.window_plan import PLAN_BLOCK, plan_kernel
from sparrow_kernels.ops.attention.triton.window_query_grad import query_grad_kernel
from sparrow_kernels.ops.attention.triton.window_tiles import Kernel, block_dim, tiles

_SIZES = (
    (torch.bfloat16, "bf16", 64),
    (torch.bfloat16, "bf16", 128),
    (torch.float16, "fp16", 80),
    (torch.float32, "fp32", 128),
)
_UNFENCED = (*_SIZES[:2], (torch.bfloat16, "bf16", 256))
# A name, the kernel's tiles, itself, and the tensors left out.
_KERNELS: tuple[tuple[str, Kernel, Any, tuple[str, ...]], ...] = (
    ("forward", "forward", forward_kernel, ()),
    ("query", "query", query_grad_kernel, ("grad_lse_ptr",)),
    ("query from lse", "query", query_grad_kernel, ()),
    ("key", "key", key_grad_kernel, ()),
)
_OF_FLOATS = ("lse_ptr", "grad_lse_ptr", "delta_ptr", "partial_ptr")
_OF_INTEGERS = ("order_ptr", "rank_ptr")


def shipped(arch: int) -> list[Shipped]:
    """The configurations for `arch`, 80 or 90."""
    found = [_sized(*kernel, *size, arch, fenced=True) for size in _SIZES for kernel in _KERNELS]
    if arch >= 90:
        unfenced = [
            _sized(*kernel, *size, arch, fenced=False) for size in _UNFENCED for kernel in _KERNELS
        ]
        found += [each._replace(name=f"{each.name} unfenced") for each in unfenced]
    added = {"D": 128, "BLOCK_D": 128, "BLOCK_N": 128, "ROWS": ADDED_ROWS}
    return [
        *found,
        _shipped("plan", plan_kernel, "u8", {"BLOCK": PLAN_BLOCK}, 8),
        _shipped("add splits D128 bf16", add_splits_kernel, "bf16", added, 4),
    ]


def _sized(
    name: str,
    kernel: Kernel,
    function: Any,
    left_out: tuple[str, ...],
    dtype: torch.dtype,
    short: str,
    head_dim: int,
    arch: int,
    fenced: bool,
) -> Shipped:
    chosen = tiles(kernel, dtype, head_dim, arch // 10, fenced)
    constexprs: dict[str, int | None] = {
        "D": head_dim,
        "BLOCK_D": block_dim(head_dim),
        "BLOCK_M": chosen.rows,
        "BLOCK_N": chosen.keys,
    }
    return _shipped(
        f"{name} D{head_dim} {short} M{chosen.rows} N{chosen.keys}",
        function,
        short,
        constexprs | dict.fromkeys(left_out),
        chosen.num_warps,
        chosen.num_stages,
        tensor_cores=dtype != torch.float32,
    )


def _shipped(
    name: str,
    function: Any,
    short: str,
    constexprs: Mapping[str, int | None],
    num_warps: int,
    num_stages: int = 3,
    tensor_cores: bool = False,
) -> Shipped:
    return Shipped(
        name=f"anchored_window {name}",
        kernel=function,
        signature={name: _type(name, short, constexprs) for name in function.arg_names},
        constexprs=dict(constexprs),
        attrs={
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(function.arg_names)
            if name not in constexprs and (name.endswith("_ptr") or "_stride_" in name)
        },
        num_warps=num_warps,
        num_stages=num_stages,
        tensor_cores=tensor_cores,
    )


def _type(name: str, short: str, constexprs: Mapping[str, int | None]) -> str:
    """The compiler's name for the type of an argument."""
    if name in constexprs:
        return "constexpr"
    if name.endswith("_ptr"):
        if name == "mask_ptr":
            return "*u8"
        return "*fp32" if name in _OF_FLOATS else "*i32" if name in _OF_INTEGERS else f"*{short}"
    return "fp32" if name.startswith("scale") else "i32"
