"""Names that releases of transformers change, asked for instead of assumed."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from types import CodeType, FrameType
from typing import Any

import transformers
from torch import nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache

from sparrow_kernels.releases import standing

_CACHE_KEYWORDS = ("cache", "past_key_values")
"""What a forward may call its cache, newest name first: 5.24 renamed it, and where both are given
the old one is silently dropped."""

_FRAMES = 12
"""How far up the stack `generate` may be: decorators and partials lie between it and us."""


def installed() -> str:
    """The installed transformers, and whether it was tested: for errors only a release explains."""
    version = transformers.__version__
    return f"transformers {version} is {standing('transformers', version)}"


def cache_keyword(module: nn.Module) -> str:
    """The keyword under which `module.forward` takes its cache.

    Raises:
        RuntimeError: it takes none that we know.
    """
    parameters = inspect.signature(module.forward).parameters
    for name in _CACHE_KEYWORDS:
        if name in parameters:
            return name
    raise RuntimeError(
        f"{type(module).__name__}.forward must take a cache as {' or '.join(_CACHE_KEYWORDS)}, got"
        f" neither ({installed()})"
    )


def takes(module: nn.Module, name: str) -> bool:
    """Whether `module.forward` takes a keyword."""
    parameters = inspect.signature(module.forward).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    return takes_any or name in parameters


def without_cache(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """`keywords` but for a cache, under whatever name."""
    return {
        name: value
        for name, value in keywords.items()
        if name not in _CACHE_KEYWORDS and not isinstance(value, Cache)
    }


def cache_of(keywords: Mapping[str, Any]) -> Cache | None:
    """The cache among a call's keywords, under whatever name."""
    return next((value for value in keywords.values() if isinstance(value, Cache)), None)


def leave_the_tower_to_us(view: Any) -> None:
    """Have `generate` of a private view hand pixels on, and not run the vision tower itself.

    5.23 runs it first, which 5.17 did not, and holds its features until it returns. Not where a
    prompt is to be expanded: of such a model it repeats features, and would repeat rows of pixels.
    """
    view._supports_mm_encoder_outputs = _never


def _never() -> bool:
    return False


def not_handed_on(*names: str) -> dict[str, Any]:
    """Arguments of the running `generate` that it keeps from a custom decoding function.

    It takes a `streamer` or an `assistant_model`, and then calls a function that was given as
    `custom_generate` without them: only its frame still knows. Those that are not None.
    """
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_FRAMES):
        if frame is None:
            return {}
        if frame.f_code is _GENERATE:
            local = frame.f_locals
            return {name: local[name] for name in names if local.get(name) is not None}
        frame = frame.f_back
    return {}


def _code_of_generate() -> CodeType:
    generate: Any = inspect.unwrap(GenerationMixin.generate)
    return generate.__code__


_GENERATE = _code_of_generate()
