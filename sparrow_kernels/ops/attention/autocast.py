"""Autocast: attention here casts what PyTorch's own attention casts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def cast_as_sdpa(*tensors: Any) -> Any:
    """`tensors` as autocast hands them to `scaled_dot_product_attention`.

    That is in its dtype where they are floats of its device, float64 and float8 aside; without
    autocast, and what is no tensor, as they come.
    """
    # The first question costs a fraction of the second, but cannot be compiled.
    if not (torch.compiler.is_compiling() or torch._C._is_any_autocast_enabled()):
        return tensors
    return tuple(_cast(each) if isinstance(each, Tensor) else each for each in tensors)


def _cast(tensor: Tensor) -> Tensor:
    device = tensor.device.type
    # A float8 cache means what it says only with its scales.
    is_cast = tensor.is_floating_point() and tensor.dtype.itemsize in (2, 4)
    if not is_cast or not torch.is_autocast_enabled(device):
        return tensor
    return tensor.to(torch.get_autocast_dtype(device))
