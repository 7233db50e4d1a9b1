"""What differs between families of transformers: where their parts are, and what their ids mean.

A family whose language model sees each token once, in order, and to the left of it only, needs no
more than a `Family`. Where a model is not listed the same is read off its configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparrow_kernels.models.bridge.attention import ATTENTION_NAME
from sparrow_kernels.models.bridge.names import cache_keyword
from sparrow_kernels.models.bridge.view import private_view, uncompiled
from sparrow_kernels.models.bridge.wrapped import the_device_of, without_adapter
from sparrow_kernels.models.requirements import NEEDED, check_target

VidLLM = Any
"""A model of transformers that generates: `PreTrainedModel` and `GenerationMixin` at once, for
which transformers has no type."""


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
FAMILIES = {
    "qwen2_vl": Family(_QWEN, position_axes=3, visual="visual"),
    "qwen2_5_vl": Family(_QWEN, position_axes=3, visual="visual"),
    "qwen3_vl": Family(
        _QWEN, position_axes=3, visual="visual", per_visual_token=("deepstack_visual_embeds",)
    ),
    "llava_onevision": Family(("video_token_id", "image_token_id"), visual="vision_tower"),
    "glm4v": Family(("image_token_id",), position_axes=3, visual="visual"),
}

# Names that other families use, for the generic adapter.
_PLACEHOLDERS = ("video_token_id", "image_token_id", "video_token_index", "image_token_index")
_LANGUAGE_MODELS = ("language_model", "text_model")
_TOWERS = ("visual", "vision_tower", "vision_model", "video_tower")


class Parts:
    """The parts of a target the decoder works with, found once a call.

    Raises:
        ValueError: the target is no model that this can be done with; says what is missing.
    """

    def __init__(self, model: VidLLM) -> None:
        model = uncompiled(without_adapter(uncompiled(model)))
        self.model = model
        self.text_config = model.config.get_text_config()
        check_target(model, self.text_config)
        self.base: Any = _base(model)
        self.language_model: Any = _language_model(self.base)
        self.family = FAMILIES.get(model.config.model_type) or _generic(model, self.base)
        self.visual: nn.Module | None = (
            None if self.family.visual is None else getattr(self.base, self.family.visual, None)
        )
        self.lm_head: Any = model.get_output_embeddings()
        self.embedding: Any = model.get_input_embeddings()
        layers = getattr(self.language_model, "layers", ())
        self.device = the_device_of(self.embedding, *layers, self.lm_head)
        self.cache_keyword = cache_keyword(self.language_model)
        """What the language model, and the model around it, call their cache."""
        ids = (getattr(model.config, name, None) for name in self.family.placeholder_ids)
        self.placeholder_ids = [int(each) for each in ids if each is not None]

    def private(self, again: bool = False) -> Parts:
        """The same parts with our attention in them, which nobody else sees; `again`: also where
        these are private, for a use that changes them."""
        if not again and self.language_model.config._attn_implementation == ATTENTION_NAME:
            return self  # SparrowDecoder generates on a view already
        return Parts(private_view(self.model, self.language_model, ATTENTION_NAME))

    def visual_mask(self, input_ids: Tensor) -> Tensor:
        """`[B, S]` bool: which slots hold a clip's or an image's tokens, however many runs."""
        mask = input_ids < 0
        for placeholder in self.placeholder_ids:
            mask |= input_ids == placeholder
        return mask

    @property
    def reads_text_only(self) -> bool:
        """Whether the base model is its own language model."""
        return self.language_model is uncompiled(self.base)


def _base(model: VidLLM) -> Any:
    base = getattr(model, getattr(model, "base_model_prefix", "") or "model", None)
    if base is None or base is model or model.get_output_embeddings() is None:
        raise ValueError(
            f"target must be a model with an LM head over a base model, got {type(model).__name__}"
            f" of family {model.config.model_type!r} ({NEEDED})"
        )
    return uncompiled(base)


def _language_model(base: Any) -> Any:
    """The language model in a base model; the base model itself where it reads text only."""
    names = (name for name in _LANGUAGE_MODELS if hasattr(base, name))
    name = next(names, None)
    return base if name is None else uncompiled(getattr(base, name))


def _generic(model: VidLLM, base: Any) -> Family:
    """The adapter of a family that is not listed.

    Raises:
        ValueError: its positions are not those of a family that is.
    """
    text_config, config = model.config.get_text_config(), model.config
    rope = getattr(text_config, "rope_parameters", None) or {}
    if "mrope_section" in rope or hasattr(base, "get_rope_index"):
        raise ValueError(
            f"target must be of a family whose position axes are known, got"
            f" {config.model_type!r} with M-RoPE (known: {', '.join(sorted(FAMILIES))}; {NEEDED})"
        )
    placeholders = tuple(name for name in _PLACEHOLDERS if getattr(config, name, None) is not None)
    towers = [name for name in _TOWERS if hasattr(base, name)]
    if towers and _language_model(base) is base:
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
