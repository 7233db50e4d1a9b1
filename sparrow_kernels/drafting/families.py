"""What differs between families of transformers: where their parts are, and what their ids mean.

A family whose language model sees each token once, in order, and to the left of it only, needs no
more than a `Family`. Where a model is not listed the same is read off its configuration.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """How to reach the parts of one family's model."""

    placeholder_ids: tuple[str, ...]
    """Attributes of the config that name the ids which stand for a clip's or an image's tokens."""
    position_axes: int = 0
    """Rows of `position_ids`: 3 for M-RoPE (time, height, width), 0 for plain `[B, T]`."""
    visual: str | None = None
    """The vision tower's name in the base model, whose blocks a progress bar counts."""
    per_visual_token: tuple[str, ...] = ()
    """Keywords of the language model that hold `[visual tokens of the batch, H]` a layer."""


_QWEN = ("video_token_id", "image_token_id")
_QWEN3_VL = Family(
    _QWEN, position_axes=3, visual="visual", per_visual_token=("deepstack_visual_embeds",)
)
_GLM4V = Family(("image_token_id",), position_axes=3, visual="visual")
FAMILIES = {
    "qwen2_vl": Family(_QWEN, position_axes=3, visual="visual"),
    "qwen2_5_vl": Family(_QWEN, position_axes=3, visual="visual"),
    "qwen3_vl": _QWEN3_VL,
    "qwen3_vl_moe": _QWEN3_VL,
    "llava_onevision": Family(("video_token_id", "image_token_id"), visual="vision_tower"),
    "glm4v": _GLM4V,
    "glm4v_moe": _GLM4V,
}

NEEDED = (
    f"served: {', '.join(sorted(FAMILIES))}, and models with one position axis and full attention;"
    " docs/adding-a-model.md says what a target needs"
)
"""What a refusal ends with."""
