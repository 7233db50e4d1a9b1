"""The elementwise work of a view's layers, fused by `torch.compile`.

Norms and MLPs are compiled, each once for all layers, since no layer's differs but in its weights.
Caches stay out of it: attention and what writes to a cache are ops of ours, and a compiled graph
that held a cache would copy it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparrow_kernels.models.bridge.view import is_private, shallow_copy


def compile_elementwise(language_model: nn.Module) -> None:
    """Compile norms and MLPs of a private view's `language_model`, in place."""
    for parent in [module for module in language_model.modules() if is_private(module)]:
        for name, child in parent.named_children():
            if type(child).__name__.endswith(("Norm", "MLP")):
                parent._modules[name] = _compiled(child)


def _compiled(module: nn.Module) -> Any:
    copied = shallow_copy(module)
    copied.forward = torch.compile(copied.forward)
    return copied
