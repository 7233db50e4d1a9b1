"""What a target must be for speculation to leave its text alone; what is not is refused by name.

Here is what a model and its configuration say. What only a prompt's first forward shows is refused
there: in `models.prompt` what arrives at the language model's door, in `models.bridge.attention`
what arrives at a layer's attention, in `models.bridge.outer` what lies behind the language model.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import nn

from sparrow_kernels.drafting.families import FAMILIES, NEEDED, Family

# Names that other families use, for the generic adapter.
_PLACEHOLDERS = ("video_token_id", "image_token_id", "video_token_index", "image_token_index")
_LANGUAGE_MODELS = ("language_model", "text_model")
_TOWERS = ("visual", "vision_tower", "vision_model", "video_tower")

_ALTERED_LOGITS = (
    *("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier"),
    *("output_multiplier", "output_multiplier_scale"),
)
"""What configurations call an operation between the LM head and the logits."""

_ROPE_BY_LENGTH = ("dynamic", "longrope")
"""Rotary embeddings whose frequencies follow the longest position of a forward: a tree's deepest
node would turn the others."""


def check_served(model: Any) -> None:
    """Raise `ValueError` where `model` is no target that can be served, saying why and what is.

    Weights are not looked at: they may lie on `meta`.
    """
    model = model_under(model)
    check_target(model, model.config.get_text_config())
    family_of(model, base_of(model))


def check_target(model: Any, text_config: Any) -> None:
    """Raise `ValueError` where `model` cannot be decoded speculatively, saying why."""
    if getattr(model.config, "is_encoder_decoder", False):
        refuse(model, "have a decoder only", "an encoder and a decoder")
    kinds = set(getattr(text_config, "layer_types", None) or ()) - {"full_attention"}
    hint = "load it with use_sliding_window=False or sliding_window=None, if its family can; "
    hint += NEEDED
    if "sliding_attention" in kinds:
        refuse(model, "use full attention in every layer", "sliding_attention layers", hint)
    if kinds:
        refuse(model, "use full attention in every layer", f"{', '.join(sorted(kinds))} layers")
    window = getattr(text_config, "sliding_window", None)
    if window is not None and not getattr(text_config, "layer_types", None):
        refuse(model, "use full attention in every layer", f"sliding_window={window}", hint)
    if getattr(model, "_is_stateful", False):
        refuse(model, "keep keys and values only", "a recurrent state, which no step can take back")
    if not getattr(model, "_supports_attention_backend", False):
        wanted = "take its attention from transformers' AttentionInterface"
        refuse(model, wanted, "attention of its own")
    rope = getattr(text_config, "rope_parameters", None) or {}
    if rope.get("rope_type") in _ROPE_BY_LENGTH:
        wanted = "rotate a token by its own position alone"
        refuse(model, wanted, f"rope_type={rope['rope_type']!r}")
    if getattr(model, "dtype", None) == torch.float64:
        wanted = "be of float32, bfloat16 or float16"
        refuse(model, wanted, "float64", "convert it: target.to(torch.float32)")
    for name in _ALTERED_LOGITS:
        value = getattr(text_config, name, None)
        if value not in (None, 1):
            refuse(model, "take its logits from its LM head unaltered", f"{name}={value}")


def check_no_dropout(model: Any) -> None:
    """Raise `ValueError` where a module would drop values at random: no two texts would agree."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.training and module.p > 0:
            refuse(model, "be without dropout", f"{name} with p={module.p}", EVAL)


EVAL = "call target.eval() before it generates"


def refuse(model: Any, must: str, got: str, hint: str = NEEDED) -> NoReturn:
    raise ValueError(
        f"target must {must}, got {got} in {type(model).__name__} of family"
        f" {model.config.model_type!r} ({hint})"
    )


def uncompiled(module: Any) -> Any:
    """What `torch.compile(module)` has wrapped: its graphs read their maker's configuration."""
    return getattr(module, "_modules", {}).get("_orig_mod", module)


def model_under(model: Any) -> Any:
    """The model of transformers under what `torch.compile` and PEFT have put around it.

    Raises:
        TypeError: there is none.
        NotImplementedError: what PEFT has put there is not in its layers.
    """
    model = uncompiled(without_adapter(uncompiled(model)))
    if not hasattr(model, "get_output_embeddings"):
        hint = "load one with AutoModelForImageTextToText.from_pretrained"
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            hint = "pass what it wraps: target.module"
        raise TypeError(
            f"target must be a model of transformers, got {type(model).__name__} ({hint})"
        )
    return model


def without_adapter(model: Any) -> Any:
    """The model of transformers in a PEFT model: adapters lie in its layers, and stay in force.

    Raises:
        NotImplementedError: the adapter is none of layers, such as a learned prompt.
    """
    if not hasattr(model, "get_base_model") or not hasattr(model, "peft_config"):
        return model
    for config in model.peft_config.values():
        if getattr(config, "is_prompt_learning", False):
            raise NotImplementedError(
                f"target must have an adapter in its layers, such as LoRA, got"
                f" {type(config).__name__}, which puts learned rows before the prompt"
            )
    return model.get_base_model()


def family_of(model: Any, base: Any) -> Family:
    """That of the table, or what a model's configuration says of one that is not in it.

    Raises:
        ValueError: its positions are not those of a family that is in it, or its parts have
            unknown names.
    """
    return FAMILIES.get(model.config.model_type) or _generic(model, base)


def base_name_of(model: Any) -> str:
    """What a model calls its base model."""
    return getattr(model, "base_model_prefix", "") or "model"


def base_of(model: Any) -> Any:
    base = getattr(model, base_name_of(model), None)
    if base is None or base is model or model.get_output_embeddings() is None:
        raise ValueError(
            f"target must be a model with an LM head over a base model, got {type(model).__name__}"
            f" of family {model.config.model_type!r} ({NEEDED})"
        )
    return uncompiled(base)


def language_model_of(base: Any) -> Any:
    """The language model in a base model; the base model itself where it reads text only."""
    names = (name for name in _LANGUAGE_MODELS if hasattr(base, name))
    name = next(names, None)
    return base if name is None else uncompiled(getattr(base, name))


def _generic(model: Any, base: Any) -> Family:
    """The adapter of a family that is not listed.

    Raises:
        ValueError: its positions are not those of a family that is.
    """
    text_config, config = model.config.get_text_config(), model.config
    rope = getattr(text_config, "rope_parameters", None) or {}
    if "mrope_section" in rope or hasattr(base, "get_rope_index"):
        raise ValueError(
            f"target must be of a family whose position axes are known, got"
            f" {config.model_type!r} with M-RoPE ({NEEDED})"
        )
    placeholders = tuple(name for name in _PLACEHOLDERS if getattr(config, name, None) is not None)
    towers = [name for name in _TOWERS if hasattr(base, name)]
    if towers and language_model_of(base) is base:
        raise ValueError(
            f"target must call its language model {' or '.join(_LANGUAGE_MODELS)}, got neither in"
            f" {type(base).__name__} beside its {towers[0]} ({NEEDED})"
        )
    if towers and not placeholders:
        raise ValueError(
            f"target must name the ids that stand for a clip's and an image's tokens in its"
            f" configuration ({', '.join(_PLACEHOLDERS)}), got none for {config.model_type!r}"
            f" ({NEEDED})"
        )
    return Family(placeholders, visual=towers[0] if towers else None)
