"""Make torchvision importable beside a CPU build of torch.

transformers' video processors use torchvision's transforms. Its wheel is built against CUDA: on a
CPU torch the compiled part cannot load, and the import then fails because fake kernels are
registered for two ops that nobody declared. Declaring their schemas is enough: transforms need
neither op.
"""

from __future__ import annotations

import torch

_declared: torch.library.Library | None = None


def install_video_shim() -> None:
    """Declare torchvision's two ops on a CPU torch. Call it before importing a processor."""
    global _declared
    if _declared is not None or torch.version.cuda is not None:
        return
    _declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            _declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
