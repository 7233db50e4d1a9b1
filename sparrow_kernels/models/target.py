"""The target at work: prefill, verify, and the cache they write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.decoding import Verification
from sparrow_kernels.models.bridge.attention import Nodes, check_attended
from sparrow_kernels.models.bridge.cache import PreallocatedCache
from sparrow_kernels.models.families import Parts
from sparrow_kernels.models.prompt import RequestPrompt
from sparrow_kernels.ops.tree import pack_ancestors
from sparrow_kernels.ops.types import TreeLayout


@dataclass
class Prefill:
    """What the prompts leave behind, beside the cache."""

    logits: Tensor
    """`[B, V]` of each request's last slot."""
    hidden: Tensor
    """`[B, H]` the top state there."""
    text: list[tuple[Tensor, Tensor]]
    """For each request `[R]` int64 its text tokens, but the first of the sequence, and `[R, H]`
    for each the top state at the slot before it."""


class TargetState:
    """The target of one call: implements `sparrow_kernels.decoding.Target`.

    Args:
        parts: a private view's, so that the language model attends as we do.
        batch: requests.
        capacity: cache slots a request to begin with.
    """

    def __init__(self, parts: Parts, batch: int, capacity: int) -> None:
        device = parts.embedding.weight.device
        self.cache = PreallocatedCache(parts.text_config.num_hidden_layers, batch, capacity, device)
        self.prefix_lens = self.cache.prefix_lens
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        axes = parts.family.position_axes
        shape = (axes, batch, 1) if axes else (batch, 1)
        self._position_offset = torch.zeros(shape, dtype=torch.int64, device=device)
        self._made_for = _identity(parts)
        self.begin(parts)

    def fits(self, parts: Parts) -> bool:
        """Whether these buffers serve another call's parts: same weights where they were."""
        return self._made_for == _identity(parts)

    def begin(self, parts: Parts) -> None:
        """Serve a call, through its own view of the target."""
        self._parts = parts
        self._cached = {parts.cache_keyword: self.cache, "use_cache": True}

    def prefill(
        self,
        prompts: list[RequestPrompt],
        *,
        chunk_size: int | None = None,
        copies: int = 1,
        slice_clip: bool = False,
    ) -> Prefill:
        """Run the prompts, request by request, without padding.

        Keeps the top states of text rows; no `[length, vocab]` logits and no mask are ever made.

        Args:
            chunk_size: most rows of a forward; None for whole prompts.
            copies: of so many requests in a row the prompt is the same, and run once.
            slice_clip: pair the first text row after a clip with the state before the clip.
        """
        hidden: list[Tensor] = []
        text: list[tuple[Tensor, Tensor]] = []
        for request, prompt in enumerate(prompts):
            if request % copies:
                self.cache.copy_request(request - 1, request, len(prompt.ids))
                hidden.append(hidden[-1])
                text.append(text[-1])
            else:
                last, rows = self._prefill_one(request, prompt, chunk_size, slice_clip)
                hidden.append(last)
                text.append(rows)
            offset = prompt.next_position - len(prompt.ids)
            self._position_offset[..., request, :] = offset
        self.keys, self.values = self.cache.keys, self.cache.values
        last_hidden = torch.cat(hidden)
        return Prefill(self._parts.lm_head(last_hidden), last_hidden, text)

    def _prefill_one(
        self, request: int, prompt: RequestPrompt, chunk_size: int | None, slice_clip: bool
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The last slot's top state `[1, H]`, and the text rows."""
        length = len(prompt.ids)
        text_slots = (~prompt.visual).nonzero()[:, 0]
        rows = text_slots[text_slots > 0]
        # The text token before it, with `slice_clip`; the first of the sequence has none.
        follows_text = slice_clip and len(rows) < len(text_slots)
        before = text_slots[:-1] if follows_text else rows - 1
        kept = []
        for chunk in prompt.chunks(0, chunk_size or length):
            hidden = self._run_chunk(request, chunk.begin, chunk.end, chunk.inputs)
            inside = (before >= chunk.begin) & (before < chunk.end)
            kept.append(hidden[0, before[inside] - chunk.begin])
        self.prefix_lens[request] = length
        return hidden[:, -1], (prompt.ids[rows], torch.cat(kept))

    def _run_chunk(self, request: int, begin: int, end: int, inputs: dict) -> Tensor:
        """Top states `[1, n, H]` of a prompt's rows behind `begin` slots."""
        size = end - begin
        nodes = {}
        if begin:
            self.prefix_lens[request] = begin
            chain = torch.ones((1, size, size), dtype=torch.bool, device=self.prefix_lens.device)
            lengths = self.prefix_lens[request : request + 1]
            nodes["nodes"] = Nodes(pack_ancestors(chain.tril()), lengths)
        with self.cache.prefill_of(request, begin):
            output = self._parts.language_model(
                **inputs, attention_mask=None, **self._cached, **nodes
            )
            hidden = output.last_hidden_state
        self.cache.check_prefilled(size)
        check_attended(self._parts.language_model, len(self.cache.layers))
        return hidden

    def verify(self, tokens: Tensor, layout: TreeLayout) -> Verification:
        """See `sparrow_kernels.decoding.Target.verify`."""
        positions = self._position_offset + (self.prefix_lens[:, None] + layout.depth.clamp_min(0))
        hidden = self._parts.language_model(
            inputs_embeds=self._parts.embedding(tokens),
            position_ids=positions,
            attention_mask=None,
            **self._cached,
            nodes=Nodes(layout.ancestors, self.prefix_lens),
        ).last_hidden_state
        return Verification(hidden, self._parts.lm_head(hidden))

    def enlarge(self, slots: int) -> bool:
        """See `sparrow_kernels.decoding.Target.enlarge`."""
        moved = self.cache.enlarge(slots)
        if moved:
            self.keys, self.values = self.cache.keys, self.cache.values
        return moved


def _identity(parts: Parts) -> tuple[Any, ...]:
    """What graphs and caches of a target depend on: where its weights are, and their dtype."""
    weights = tuple((p.data_ptr(), p.dtype) for p in parts.model.parameters())
    autocast = torch.is_autocast_enabled(parts.embedding.weight.device.type)
    return (type(parts.model), weights, autocast)
