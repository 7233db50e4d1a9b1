"""torchvision beside a CPU build of torch: whether it loads, and what lets it.

transformers' video processors use torchvision's transforms. Its wheel is built against CUDA: on a
CPU torch the compiled part cannot load, and the import then fails because fake kernels are
registered for two ops that nobody declared. Declaring their schemas is enough: transforms need
neither op. No install of ours brings a torchvision, which would bring its own torch: without one,
`sparrow_kernels.models.plain_processor` prepares clips.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from typing import Any

_declared: Any = None


def install_video_shim() -> None:
    """Declare torchvision's two ops on a CPU torch. Call it before importing a processor."""
    global _declared
    import torch  # not above: `at_import` runs at the start of every process

    if _declared is not None or torch.version.cuda is not None:
        return
    _declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            _declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


class _BeforeTorchvision:
    """Finds nothing; the first look for torchvision installs the shim."""

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> None:
        if name == "torchvision":
            sys.meta_path.remove(cls)
            install_video_shim()


def at_import() -> None:
    """Install the shim once somebody imports torchvision. `make setup` has every process of its
    environment call this, so that torchvision loads there for everyone."""
    sys.meta_path.insert(0, _BeforeTorchvision)


def unavailable() -> str | None:
    """Why torchvision cannot be imported here, with the way on; None where it can."""
    from importlib import metadata

    install_video_shim()
    try:
        import_module("torchvision")
    except Exception as error:  # what an import of another torch's torchvision raises is any
        try:
            reason = f"torchvision {metadata.version('torchvision')} does not load ({error})"
        except metadata.PackageNotFoundError:
            reason = "torchvision is not installed"
        return f"{reason}; {_way_on()}"
    return None


def standing() -> str:
    """What prepares clips here, as `sparrow env` says it."""
    lacking = unavailable()
    if lacking is not None:
        return f"plain torch, for processors of Qwen2-VL and Qwen2.5-VL alone: {lacking}"
    import torchvision
    from torchvision import extension

    compiled = extension._has_ops() if hasattr(extension, "_has_ops") else False
    rest = "" if compiled else ", whose own compiled ops do not load beside this torch"
    return f"torchvision {torchvision.__version__}{rest}"


def _way_on() -> str:
    import torch

    return f"{install_for(torch.__version__)} is the one for this torch"


def release_for(torch: str) -> str:
    """The release of torchvision that goes with a torch: 0.26 came with 2.11, and so on."""
    return f"0.{int(torch.split('.')[1]) + 15}"


def install_for(torch: str, *options: str) -> str:
    """The command that brings the torchvision of a torch, and of its build: an index that is not
    told gives one for CUDA, which on a CPU torch takes transformers' processors with it."""
    _, _, build = torch.partition("+")
    if re.fullmatch(r"cpu|cu\d+|xpu|rocm[\d.]+", build):  # not one of somebody's own
        options += ("--index-url", f"https://download.pytorch.org/whl/{build}")
    return " ".join(("pip install --no-deps", *options, f"'torchvision=={release_for(torch)}.*'"))
