"""Why the Triton kernels cannot run on this machine, or cannot take a call. Imports no triton."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from sparrow_kernels.ops.registry import Reason

# tl.dot on float64 does not exist for all tile shapes, and nobody serves a model in it.
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def interpreting() -> bool:
    """Whether kernels run under Triton's interpreter, on a CPU: a setting of its own, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def unavailable() -> Reason:
    """Why no Triton kernel can run here, None if one can."""
    if not _installed("triton"):
        return "triton is not installed"
    if interpreting():
        return None if _installed("numpy") else "triton's interpreter needs numpy"
    if not _has_gpu():
        return "no CUDA GPU (with TRITON_INTERPRET=1 its interpreter runs on a CPU, slowly)"
    return None


def refuses(tensor: Tensor) -> Reason:
    """Why a call on tensors such as this one cannot be taken, None if it can."""
    if tensor.dtype not in DTYPES:
        return f"it has no {str(tensor.dtype).removeprefix('torch.')}"
    if tensor.device.type == "cpu" and tensor.dtype == torch.bfloat16 and interpreting():
        return "Triton's interpreter computes bfloat16 products wrongly"
    return wrong_device(tensor)


def refuses_float8(device: torch.device, dtype: torch.dtype) -> Reason:
    """Why rows of `dtype` cannot attend to float8_e4m3fn caches there, None if they can."""
    if device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(device)
    instead = "pass key and value in the query's dtype, times their scales"
    if major != 9:
        return f"its float8 caches are for GPUs of 9.x, this is {major}.{minor}: {instead}"
    if dtype == torch.float32:
        return f"its float8 caches are for rows of 16 bits, whose tiles do not spill: {instead}"
    return None


def wrong_device(tensor: Tensor) -> Reason:
    """Why kernels cannot run where this tensor is, None if they can."""
    if tensor.device.type == "cuda":
        return _too_old(tensor.device.index)
    return None if interpreting() else "on a CPU it runs under TRITON_INTERPRET=1 only"


@cache
def _installed(module: str) -> bool:
    return find_spec(module) is not None


@cache
def _has_gpu() -> bool:
    return torch.cuda.is_available()


@cache
def _too_old(device: int) -> Reason:
    major, minor = torch.cuda.get_device_capability(device)
    return None if major >= 8 else f"it needs an Ampere GPU (8.0) or later, this is {major}.{minor}"
