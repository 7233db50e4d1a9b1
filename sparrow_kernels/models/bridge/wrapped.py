"""What others wrap around a target: PEFT's adapters, accelerate's hooks that bring weights along.

Neither package is imported: both are known by what they leave on the modules.
"""

from __future__ import annotations

from typing import Any

import torch

from sparrow_kernels.models.bridge.states import is_tapped


def adapters_in_force(model: Any) -> tuple[Any, ...]:
    """What adapters add, as far as their layers decide it in Python: a graph would not see it."""
    return tuple(
        (
            tuple(layer.active_adapters),
            tuple(layer.merged_adapters),
            layer.disable_adapters,
            tuple(getattr(layer, "scaling", {}).items()),
        )
        for layer in model.modules()
        if hasattr(layer, "merged_adapters") and hasattr(layer, "active_adapters")
    )


def the_device_of(*modules: Any) -> torch.device:
    """The one device that modules run on.

    Raises:
        NotImplementedError: they are several: a step commits all layers at once.
    """
    devices = {device for module in modules if (device := _runs_on(module)) is not None}
    if len(devices) > 1:
        raise NotImplementedError(
            "target must run its language model on one device, got"
            f" {', '.join(sorted(map(str, devices)))} (of several GPUs each holds a share of every"
            " layer with DistributedConfig(tp_plan='auto') under torchrun)"
        )
    return devices.pop()


def _runs_on(module: Any) -> torch.device | None:
    """Offloaded weights are brought there in a call, and lie on `meta` meanwhile. None where there
    are none that show, as in a layer that was quantised dynamically."""
    for inner in module.modules():
        hook = inner.__dict__.get("_hf_hook")
        for one in (hook, *getattr(hook, "hooks", ())):
            device = getattr(one, "execution_device", None)
            if device is not None:
                return torch.empty(0, device=device).device
    return next((each.device for each in (*module.parameters(), *module.buffers())), None)


def is_watched(*parts: Any) -> bool:
    """Whether somebody wants their modules called: by hooks, or by a forward put in their place.

    A recording of what they call would leave both out, and so would a `torch.compile`d module's.
    Hooks that transformers leaves on a model once it was asked for its hidden states do not watch:
    between such calls they do nothing.
    """
    return any(
        not all(map(_is_idle, module._forward_hooks.values()))
        or module._forward_pre_hooks
        or module._compiled_call_impl is not None
        or ("forward" in module.__dict__ and not is_tapped(module))
        for part in parts
        for module in part.modules()
    )


def _is_idle(hook: Any) -> bool:
    return getattr(hook, "__module__", None) == "transformers.utils.output_capturing"
