"""The target at work: prefill, verify, and the cache they write."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparrow_kernels.decoding import Verification
from sparrow_kernels.models.bridge.attention import NO_MASK, Nodes, check_attended
from sparrow_kernels.models.bridge.cache import PreallocatedCache
from sparrow_kernels.models.bridge.names import without_cache
from sparrow_kernels.models.families import Parts
from sparrow_kernels.ops.types import TreeLayout


class Prefill(NamedTuple):
    """What a prefill leaves behind, beside the cache."""

    text_tokens: Tensor
    """`[1, R]` int64 the prompt's text tokens, but the first of the sequence."""
    text_hidden: Tensor
    """`[1, R + 1, H]` for each, and for the token to come, the top state at the slot before it."""
    logits: Tensor
    """`[1, V]` of the last slot only."""


class TargetState:
    """One request's target: implements `sparrow_kernels.decoding.Target`.

    Args:
        parts: a private view's, so that the language model attends as we do.
        capacity: cache slots to begin with.
    """

    def __init__(self, parts: Parts, capacity: int) -> None:
        device = parts.model.device
        self._parts = parts
        self.cache = PreallocatedCache(
            parts.text_config.num_hidden_layers, batch=1, capacity=capacity, device=device
        )
        self.prefix_lens = self.cache.prefix_lens
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self._cached = {parts.cache_keyword: self.cache, "use_cache": True}
        self._root_only = torch.ones((1, 1, 1), dtype=torch.int64, device=device)
        self._root_depth = torch.zeros((1, 1), dtype=torch.int32, device=device)
        self._position_offset = torch.zeros(1, dtype=torch.int64, device=device)

    def prefill(self, model_inputs: dict[str, Any], *, slice_clip: bool = False) -> Prefill:
        """Run the whole prompt, as `prepare_inputs_for_generation` prepared it.

        Keeps the top states of text rows and the logits of the last row; the `[length, vocab]`
        logits and the states of the clip never outlive the call.
        """
        input_ids = model_inputs["input_ids"]
        length = input_ids.shape[1]
        inputs = {
            name: value
            for name, value in without_cache(model_inputs).items()
            if name not in ("logits_to_keep", "attention_mask", "use_cache")
        }
        output = self._parts.base(**inputs, attention_mask=NO_MASK, **self._cached)
        hidden = output.last_hidden_state
        del output  # it holds the clip's features
        self.cache.check_prefilled(length)
        check_attended(self._parts.language_model, len(self.cache.layers))
        self.cache.set_committed(length)
        self.keys, self.values = self.cache.keys, self.cache.values
        self._position_offset = self._next_position(model_inputs["position_ids"]) - length

        text_slots = (~self._parts.visual_mask(input_ids[0])).nonzero()[:, 0]
        rows = text_slots[text_slots > 0]
        before = text_slots[:-1] if slice_clip and len(rows) < len(text_slots) else rows - 1
        before = torch.cat([before, before.new_tensor([length - 1])])
        return Prefill(input_ids[:, rows], hidden[:, before], self._parts.lm_head(hidden[:, -1]))

    def verify(self, tokens: Tensor, layout: TreeLayout) -> Verification:
        """See `sparrow_kernels.decoding.Target.verify`."""
        return self._forward(tokens, layout.depth, layout.ancestors)

    def decode(self, token: Tensor) -> Tensor:
        """Plain decoding: run `token` `[1]`, commit it, return its logits `[1, V]`."""
        verified = self._forward(token[:, None], self._root_depth, self._root_only)
        self.prefix_lens += 1
        return verified.logits[:, 0]

    def enlarge(self, capacity: int) -> None:
        """Make room for `capacity` cache slots."""
        self.cache.enlarge(capacity)
        self.keys, self.values = self.cache.keys, self.cache.values

    def _forward(self, tokens: Tensor, depth: Tensor, ancestors: Tensor) -> Verification:
        positions = self._position_offset + (self.prefix_lens[:, None] + depth.clamp_min(0))
        hidden = self._parts.language_model(
            inputs_embeds=self._parts.embedding(tokens),
            position_ids=positions,
            attention_mask=NO_MASK,
            **self._cached,
            nodes=Nodes(ancestors, self.prefix_lens),
        ).last_hidden_state
        return Verification(hidden, self._parts.lm_head(hidden))

    def _next_position(self, position_ids: Tensor) -> Tensor:
        """The position after the prompt's last column: `[3, 1, 1]` for M-RoPE, else `[1, 1]`.

        `real tokens + rope_deltas` is not the same once a clip's temporal ids pass its text.
        """
        axes = self._parts.family.position_axes
        last = position_ids[..., -1:] + 1
        if axes and last.dim() == 3:
            return last[-axes:]
        return last.expand(axes, *last.shape) if axes else last
