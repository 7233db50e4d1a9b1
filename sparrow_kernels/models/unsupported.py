"""What `generate` takes and speculation does not serve, refused by name before any work is done."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import GenerationMode

from sparrow_kernels.models.bridge.names import cache_of, not_handed_on

_SERVED = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)

_CHOOSES_A_MODE = {
    "num_beams": "beam search has no speculative form",
    "penalty_alpha": "contrastive search reads every candidate's states",
    "dola_layers": "DoLa changes what the target's own tokens are",
    "prompt_lookup_num_tokens": "the draft drafts; leave it out, or leave out custom_generate",
    "assistant_early_exit": "the draft drafts; leave it out, or leave out custom_generate",
    "use_mtp": "the draft drafts; leave it out, or leave out custom_generate",
    "constraints": "constrained beam search has no speculative form",
    "force_words_ids": "constrained beam search has no speculative form",
}

_CHANGES_THE_LOOP = {
    "output_attentions": "a fused kernel has no weights to return",
    "output_hidden_states": "tree nodes are verified together and not kept",
    "guidance_scale": "classifier-free guidance runs the target on a second prompt",
}

# `max_new_tokens` arrives as the length it leads to.
_COUNTS = ("max_length", "num_return_sequences", "prefill_chunk_size")

# Of `generate`'s caches these two hold what any other cache holds, so the text is the same.
_CACHES_LIKE_OURS = (None, "dynamic", "dynamic_full")


def check_kinds(
    input_ids: Any,
    model_kwargs: dict[str, Any],
    streamer: Any,
    generator: Any,
    observer: Any,
) -> None:
    """Raise an error that names the first argument which is something else altogether."""
    if model_kwargs.get("inputs_embeds") is not None:
        _refuse("inputs_embeds", "None", "embeddings", "the draft reads tokens: pass input_ids")
    check_prompt(input_ids, model_kwargs.get("attention_mask"))
    if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
        _wrong("streamer", "one of transformers, with put() and end()", type(streamer).__name__)
    each = generator if isinstance(generator, (list, tuple)) else (generator,)
    if any(one is not None and not isinstance(one, torch.Generator) for one in each):
        kinds = ", ".join(type(one).__name__ for one in each)
        _wrong("generator", "a torch.Generator, or one for each request", kinds)
    if observer is not None and not callable(observer):
        _wrong("observer", "called with each step's StepTrace", type(observer).__name__)


def check_prompt(input_ids: Any, attention_mask: Any) -> None:
    """Raise `TypeError` unless both are tensors, `ValueError` unless both are `[B, n]`."""
    if not isinstance(input_ids, Tensor):
        hint = 'ask the processor for return_tensors="pt"'
        if isinstance(input_ids, Mapping):
            hint = "unpack what the processor returns: generate(**inputs)"
        _wrong("input_ids", "an int64 tensor of token ids", f"{type(input_ids).__name__} ({hint})")
    if input_ids.dtype not in (torch.int64, torch.int32):
        _wrong("input_ids", "an int64 tensor of token ids", input_ids.dtype)
    if input_ids.dim() != 2 or 0 in input_ids.shape:
        raise ValueError(
            "sparrow_generate: input_ids must be [requests, tokens], at least one of each, got"
            f" {list(input_ids.shape)}"
        )
    if attention_mask is None:
        return
    if not isinstance(attention_mask, Tensor):
        _wrong("attention_mask", "a tensor, as input_ids are", type(attention_mask).__name__)
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"sparrow_generate: attention_mask must be {list(input_ids.shape)}, as input_ids are,"
            f" got {list(attention_mask.shape)}"
        )


def check_count(name: str, count: Any) -> None:
    """Raise `ValueError` unless it is None, or a whole number of at least 1."""
    if count is not None and (not isinstance(count, Integral) or count < 1):
        raise ValueError(
            f"sparrow_generate: {name} must be a whole number of at least 1, got {count!r}"
        )


def _wrong(name: str, must_be: str, got: Any) -> NoReturn:
    raise TypeError(f"sparrow_generate: {name} must be {must_be}, got {got}")


def refuse_unsupported(
    input_ids: Tensor,
    config: GenerationConfig,
    model_kwargs: dict[str, Any],
    streamer: Any,
    generator: Any,
) -> None:
    """Raise `NotImplementedError` that names the first argument which is not served.

    A streamer that only transformers knows of is ended first, so that who reads it need not wait.
    """
    _refuse_what_is_not_handed_on()
    mode = config.get_generation_mode()
    if mode not in _SERVED:
        for name, why in _CHOOSES_A_MODE.items():
            value = getattr(config, name, None)
            if value and (name, value) != ("num_beams", 1):
                _refuse(name, "1" if name == "num_beams" else "unset", value, why)
        _refuse("the mode of generation", "greedy or sampled", mode.value, "see generation_config")
    for name, why in _CHANGES_THE_LOOP.items():
        value = getattr(config, name, None)
        is_off = value in (None, 1) if name == "guidance_scale" else not value
        if not is_off:
            _refuse(name, "off" if value is True else "unset", value, why)
    for name in _COUNTS:
        check_count(name, getattr(config, name))
    cache = config.cache_implementation
    if cache not in _CACHES_LIKE_OURS:
        _refuse("cache_implementation", "unset", cache, "the decoder keeps a cache of its own")
    batch = input_ids.shape[0]
    if streamer is not None and batch != 1:
        _refuse(
            "streamer", f"None for {batch} requests", type(streamer).__name__, "it shows one text"
        )
    if isinstance(generator, (list, tuple)) and len(generator) != batch:
        raise ValueError(
            f"generator must be one, or one for each of {batch} requests, got {len(generator)}"
        )
    filled = cache_of(model_kwargs)
    if filled is not None and int(filled.get_seq_length()) > 0:
        _refuse("a cache", "empty", "a filled one", "pass the whole conversation as input_ids")


def _refuse_what_is_not_handed_on() -> None:
    lost = not_handed_on("streamer", "assistant_model")
    if "streamer" in lost:
        lost["streamer"].end()
        raise NotImplementedError(
            "sparrow_generate: streamer must be bound to it, got one that generate() keeps to"
            " itself (custom_generate=functools.partial(sparrow_generate, streamer=streamer), or"
            " SparrowDecoder.generate(streamer=streamer))"
        )
    if "assistant_model" in lost:
        kind = type(lost["assistant_model"]).__name__
        _refuse("assistant_model", "None", kind, "the draft drafts; pass it as draft=")


def _refuse(name: str, must_be: str, value: Any, hint: str) -> None:
    raise NotImplementedError(f"sparrow_generate: {name} must be {must_be}, got {value!r} ({hint})")
