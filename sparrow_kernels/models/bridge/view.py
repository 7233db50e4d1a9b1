"""A private view of a target: the same weights, a configuration of our own.

transformers looks attention up by a name in the configuration that all layers of a model share. To
change it for the time of a call is to change it for every other thread, and to leave it changed
where two calls overlap. So nothing of the caller's model is changed: the modules that read the
configuration are copied, shallowly, and the copies read another one. A copy shares its original's
parameters and hooks; what a forward stores on its module, such as Qwen's `rope_deltas`, lands on
the copy and goes with it.
"""

from __future__ import annotations

import copy
import functools
import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn
from transformers import PreTrainedConfig

from sparrow_kernels.drafting.requirements import uncompiled

_Module = TypeVar("_Module", bound=nn.Module)
_MARK = "_sparrow_view"
_BOUND = (types.MethodType, types.FunctionType, functools.partial)


def private_view(model: _Module, language_model: nn.Module, attention: str) -> _Module:
    """`model` with `attention` in its `language_model`, for us alone.

    Costs a shallow copy of a few modules a layer: a tenth of a millisecond a layer.

    Args:
        model: left as it is.
        language_model: a module in it, whose layers and all that leads to them are copied.
        attention: a name registered with `AttentionInterface`.
    """
    view, _ = _viewed(model, language_model, attention, {})
    return view


def _viewed(
    module: Any,
    language_model: nn.Module,
    attention: str,
    configs: dict[int, Any],
    below: bool = False,
) -> tuple[Any, bool]:
    """`module` or its copy, and whether it is one: a copy if it is or holds a layer's part."""
    module = uncompiled(module)
    below = below or module is language_model
    is_copied = below and isinstance(module.__dict__.get("config"), PreTrainedConfig)
    children = {}
    for name, child in module._modules.items():
        if child is not None:
            child, child_is_copied = _viewed(child, language_model, attention, configs, below)
            is_copied |= child_is_copied
        children[name] = child
    if not is_copied:
        return module, False
    view = shallow_copy(module)
    view.__dict__["_modules"] = children
    view.__dict__[_MARK] = True
    if below:
        # Checkpointed layers drop their cache. Nothing is differentiated here, so nothing is lost.
        if view.__dict__.get("gradient_checkpointing"):
            view.gradient_checkpointing = False
        if "config" in view.__dict__:
            view.__dict__["config"] = _private_config(view.config, attention, configs)
    elif "generation_config" in view.__dict__:
        view.generation_config = copy.deepcopy(view.generation_config)
    return view, True


def is_private(module: nn.Module) -> bool:
    """Whether a view has copied this module, so that nobody else sees what is set on it."""
    return _MARK in module.__dict__


def _private_config(config: Any, attention: str, configs: dict[int, Any]) -> Any:
    """One copy for each configuration, so that modules which share one still do."""
    if id(config) not in configs:
        configs[id(config)] = copy.copy(config)
        configs[id(config)]._attn_implementation = attention
    return configs[id(config)]


def shallow_copy(module: Any) -> Any:
    """A module that shares parameters, children and hooks, and is its own in all else."""
    view = module.__class__.__new__(module.__class__)
    view.__dict__.update(module.__dict__)
    # A forward may store its own, such as rotary frequencies that follow the length.
    view.__dict__["_buffers"] = dict(module._buffers)
    for name, value in module.__dict__.items():
        if isinstance(value, _BOUND):
            view.__dict__[name] = _rebound(value, module, view)
    if view.__dict__.get("forward") is not None and view.forward is module.forward:
        raise NotImplementedError(
            f"{type(module).__name__}.forward must be bound to its module, got a replacement that"
            f" is not: {module.forward!r} (the decoder works on a copy of the module; compile with"
            " module.compile(), wrap with functools.partial)"
        )
    # `module.compile()` compiled the original, with the configuration it reads.
    view.__dict__["_compiled_call_impl"] = None
    return view


def standing_in(module: Any, forward: Callable[..., Any], *, hooked: bool) -> Any:
    """`module` as others see it, with another forward; with its hooks or without."""
    view = module.__class__.__new__(module.__class__)
    view.__dict__.update(module.__dict__, forward=forward, _compiled_call_impl=None)
    if not hooked:
        view.__dict__.update(_forward_hooks=OrderedDict(), _forward_pre_hooks=OrderedDict())
    return view


def _rebound(value: Any, module: Any, view: Any) -> Any:
    """`value`, bound to `view` where it was bound to `module`.

    Accelerate's hooks and patched forwards are bound so; `torch.compile` wraps what is.
    """
    value = getattr(value, "_torchdynamo_orig_callable", value)
    if isinstance(value, types.MethodType) and value.__self__ is module:
        return types.MethodType(value.__func__, view)
    if isinstance(value, functools.partial) and any(one is module for one in value.args):
        arguments = [view if one is module else one for one in value.args]
        bound = functools.partial(value.func, *arguments, **value.keywords)
        bound.__dict__.update(value.__dict__)
        return bound
    return value
