"""What a target must be for speculation to leave its text alone; what is not is refused by name.

Here is what a model and its configuration say. What only a prompt's first forward shows is refused
there: in `prompt` what arrives at the language model's door, in `bridge.attention` what arrives at
a layer's attention.
"""

from __future__ import annotations

from typing import Any

NEEDED = "see docs/adding-a-model.md for what a target needs"

_ALTERED_LOGITS = (
    *("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier"),
    *("output_multiplier", "output_multiplier_scale"),
)
"""What configurations call an operation between the LM head and the logits."""

_ROPE_BY_LENGTH = ("dynamic", "longrope")
"""Rotary embeddings whose frequencies follow the longest position of a forward: a tree's deepest
node would turn the others."""


def check_target(model: Any, text_config: Any) -> None:
    """Raise `ValueError` where `model` cannot be decoded speculatively, saying why."""
    if getattr(model.config, "is_encoder_decoder", False):
        _refuse(model, "have a decoder only", "an encoder and a decoder")
    kinds = set(getattr(text_config, "layer_types", None) or ()) - {"full_attention"}
    hint = "load it with use_sliding_window=False or sliding_window=None, if its family can"
    if "sliding_attention" in kinds:
        _refuse(model, "use full attention in every layer", "sliding_attention layers", hint)
    if kinds:
        _refuse(model, "use full attention in every layer", f"{', '.join(sorted(kinds))} layers")
    window = getattr(text_config, "sliding_window", None)
    if window is not None and not getattr(text_config, "layer_types", None):
        _refuse(model, "use full attention in every layer", f"sliding_window={window}", hint)
    if getattr(model, "_is_stateful", False):
        _refuse(
            model, "keep keys and values only", "a recurrent state, which no step can take back"
        )
    if not getattr(model, "_supports_attention_backend", False):
        wanted = "take its attention from transformers' AttentionInterface"
        _refuse(model, wanted, "attention of its own")
    rope = getattr(text_config, "rope_parameters", None) or {}
    if rope.get("rope_type") in _ROPE_BY_LENGTH:
        wanted = "rotate a token by its own position alone"
        _refuse(model, wanted, f"rope_type={rope['rope_type']!r}")
    for name in _ALTERED_LOGITS:
        value = getattr(text_config, name, None)
        if value not in (None, 1):
            _refuse(model, "take its logits from its LM head unaltered", f"{name}={value}")


def _refuse(model: Any, must: str, got: str, hint: str = NEEDED) -> None:
    raise ValueError(
        f"target must {must}, got {got} in {type(model).__name__} of family"
        f" {model.config.model_type!r} ({hint})"
    )
