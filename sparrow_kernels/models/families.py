"""What differs between Vid-LLM families of transformers: where their parts are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sparrow_kernels.models.bridge.attention import ATTENTION_NAME
from sparrow_kernels.models.bridge.names import cache_keyword
from sparrow_kernels.models.bridge.view import private_view, uncompiled

VidLLM = Any
"""A model of transformers that generates: `PreTrainedModel` and `GenerationMixin` at once, for
which transformers has no type."""


@dataclass(frozen=True)
class Family:
    """How to reach the parts of one family's model."""

    placeholder_ids: Sequence[str]
    """Attributes of the config that name the ids which stand for a clip's or an image's tokens."""
    position_axes: int
    """Rows of `position_ids`: 3 for M-RoPE (time, height, width), 0 for plain `[B, T]`."""


FAMILIES = {
    "qwen2_5_vl": Family(("video_token_id", "image_token_id"), position_axes=3),
}


class Parts:
    """The parts of a target the decoder works with, found once a call.

    Raises:
        ValueError: the target's family is unknown, or a layer does not see all of the sequence.
    """

    def __init__(self, model: VidLLM) -> None:
        model = uncompiled(model)
        family = FAMILIES.get(model.config.model_type)
        if family is None:
            raise ValueError(
                f"target must be of a supported family ({', '.join(sorted(FAMILIES))}),"
                f" got {model.config.model_type!r}"
            )
        self.model = model
        self.family = family
        self.text_config = model.config.get_text_config()
        if "sliding_attention" in getattr(self.text_config, "layer_types", ()):
            raise ValueError(
                "target must use full attention in every layer, got sliding_attention layers"
                " (load it with use_sliding_window=False)"
            )
        self.base: Any = model.model
        self.language_model: Any = uncompiled(self.base.language_model)
        self.visual: Any = self.base.visual
        self.lm_head: Any = model.lm_head
        self.embedding: Any = model.get_input_embeddings()
        self.cache_keyword = cache_keyword(self.language_model)
        """What the language model, and the model around it, call their cache."""
        self.placeholder_ids = [int(getattr(model.config, n)) for n in family.placeholder_ids]

    def private(self) -> Parts:
        """The same parts with our attention in them, which nobody else sees."""
        if self.language_model.config._attn_implementation == ATTENTION_NAME:
            return self  # SparrowDecoder generates on a view already
        return Parts(private_view(self.model, self.language_model, ATTENTION_NAME))

    def visual_mask(self, input_ids: Tensor) -> Tensor:
        """`[B, S]` bool: which slots hold a clip's or an image's tokens, however many runs."""
        mask = input_ids == self.placeholder_ids[0]
        for placeholder in self.placeholder_ids[1:]:
            mask |= input_ids == placeholder
        return mask
