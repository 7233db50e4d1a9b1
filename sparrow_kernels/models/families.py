"""The parts of a target, whatever its family calls them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sparrow_kernels.drafting.requirements import (
    base_of,
    check_target,
    family_of,
    language_model_of,
    model_under,
    uncompiled,
)
from sparrow_kernels.models.bridge.attention import ATTENTION_NAME
from sparrow_kernels.models.bridge.names import cache_keyword
from sparrow_kernels.models.bridge.view import private_view
from sparrow_kernels.models.bridge.wrapped import the_device_of

VidLLM = Any
"""A model of transformers that generates: `PreTrainedModel` and `GenerationMixin` at once, for
which transformers has no type."""


class Parts:
    """The parts of a target the decoder works with, found once a call.

    Raises:
        TypeError: the target is no model of transformers.
        ValueError: it is no model that this can be done with; says what is missing.
    """

    def __init__(self, model: VidLLM) -> None:
        model = model_under(model)
        self.model = model
        self.text_config = model.config.get_text_config()
        check_target(model, self.text_config)
        self.base: Any = base_of(model)
        self.language_model: Any = language_model_of(self.base)
        self.family = family_of(model, self.base)
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
