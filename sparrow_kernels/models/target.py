"""The target at work: prefill, verify, and the cache they write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.decoding import Verification
from sparrow_kernels.drafting.rows import TEXT_ALONE, PromptRows, RowPlan, RowRules
from sparrow_kernels.models.bridge.attention import Nodes, check_attended
from sparrow_kernels.models.bridge.cache import PreallocatedCache
from sparrow_kernels.models.bridge.compiled import compile_elementwise
from sparrow_kernels.models.bridge.last_layer import only_read
from sparrow_kernels.models.bridge.outer import check_logits
from sparrow_kernels.models.bridge.wrapped import adapters_in_force
from sparrow_kernels.models.families import Parts
from sparrow_kernels.models.kept import KeptPrompt, marks_of
from sparrow_kernels.models.prompt import RequestPrompt
from sparrow_kernels.models.reading import PromptReading, StateReader
from sparrow_kernels.ops.gather import bind_caches
from sparrow_kernels.ops.tree import pack_ancestors
from sparrow_kernels.ops.types import TreeLayout

_ROWS_BEHIND_A_PREFIX = 1024


@dataclass
class Prefill:
    """What the prompts leave behind, beside the cache."""

    logits: Tensor
    """`[B, V]` of each request's last slot."""
    states: Tensor
    """`[B, L*H]` the states there that a draft reads."""
    rows: list[PromptRows]
    """Each request's prompt, as a draft reads it."""
    reused: list[int]
    """Slots of each request that an earlier call had run."""


class TargetState:
    """The target of one call: implements `sparrow_kernels.decoding.Target`.

    Args:
        parts: a private view's, so that the language model attends as we do.
        batch: requests.
        capacity: cache slots a request to begin with.
        compiled: whether steps run compiled layers; prompts, whose lengths differ, never do.
    """

    def __init__(self, parts: Parts, batch: int, capacity: int, compiled: bool = False) -> None:
        device = parts.device
        self.cache = PreallocatedCache(parts.text_config.num_hidden_layers, batch, capacity, device)
        self.prefix_lens = self.cache.prefix_lens
        self.keys: Sequence[Tensor] = ()
        self.values: Sequence[Tensor] = ()
        axes = parts.family.position_axes
        shape = (axes, batch, 1) if axes else (batch, 1)
        self._position_offset = torch.zeros(shape, dtype=torch.int64, device=device)
        self._made_for = (_identity(parts), compiled)
        self._compiled: Parts | None = None
        if compiled:
            self._compiled = parts.private(again=True)
            compile_elementwise(self._compiled.language_model)
        self._kept_by: tuple[int, ...] = ()
        self.kept: list[KeptPrompt | None] = [None] * batch
        """What the cache holds of each request's prompt, where a call was asked to keep it."""
        self.begin(parts)

    def fits(self, parts: Parts, compiled: bool = False) -> bool:
        """Whether these buffers serve another call's parts: same weights where they were."""
        return self._made_for == (_identity(parts), compiled)

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
        rules: RowRules = TEXT_ALONE,
        keep: bool = False,
        earlier: TargetState | None = None,
    ) -> Prefill:
        """Run the prompts, request by request, without padding.

        Keeps the states that a draft reads; no `[length, vocab]` logits and no mask are ever made.

        Args:
            chunk_size: most rows of a forward; None for whole prompts.
            copies: of so many requests in a row the prompt is the same, and run once.
            rules: how the draft reads prompts, and from here on which states of a verify.
            keep: note what the cache holds, for `earlier` of a later call.
            earlier: a target whose cache may hold what prompts begin with; it may be this one.
        """
        self._reader = StateReader(self._parts, self._compiled, rules)
        logits: list[Tensor] = []
        states: list[Tensor] = []
        rows: list[PromptRows] = []
        reused: list[int] = []
        weights = _versions(self._parts)
        old = [] if earlier is None or earlier._kept_by != weights else list(earlier.kept)
        self.kept, self._kept_by = [None] * len(prompts), weights
        for request, prompt in enumerate(prompts):
            offset = prompt.next_position - len(prompt.ids)
            self._position_offset[..., request, :] = offset
            if request % copies:
                self.cache.copy_request(request - 1, request, len(prompt.ids))
                logits.append(logits[-1])
                states.append(states[-1])
                rows.append(rows[-1])
                reused.append(reused[-1])
                self.kept[request] = self.kept[request - 1]
                continue
            plan = rules.plan(prompt.visual)
            marks = marks_of(prompt) if keep or old else None
            start, source = 0, None
            if earlier is not None and marks is not None:
                start, source = self._take_over(request, plan, marks, earlier, old)
            reading = PromptReading(self._reader, prompt, plan, start, source)
            for chunk in prompt.chunks(start, _chunk_size(chunk_size, start, len(prompt.ids))):
                read = reading.expect(chunk.begin, chunk.end)
                top = self._run_chunk(request, chunk.begin, chunk.end, chunk.inputs, read)
                reading.take(top)
            self.prefix_lens[request] = len(prompt.ids)
            last_states = top[:, -1:]
            last_logits = self._parts.lm_head(last_states)
            logits.append(last_logits[:, 0])
            of_prompt, last = reading.result()
            rows.append(of_prompt)
            states.append(last)
            reused.append(start)
            if keep and marks is not None:
                self.kept[request] = reading.kept(marks, of_prompt)
        check_attended(self._parts.language_model, len(self.cache.layers))
        with self.cache.prefill_of(len(prompts) - 1, len(prompt.ids) - 1):
            token, position = prompt.ids[None, -1:], prompt.positions[..., -1:]
            check_logits(self._parts, token, position, last_states, last_logits, self.cache)
        self._bind()
        return Prefill(torch.cat(logits), torch.cat(states), rows, reused)

    def _take_over(
        self,
        request: int,
        plan: RowPlan,
        marks: Tensor,
        earlier: TargetState,
        old: list[KeptPrompt | None],
    ) -> tuple[int, KeptPrompt | None]:
        """Have an earlier call's slots in front of a request: how many, and what they hold."""
        rules = self._reader.rules
        sources = range(len(old)) if earlier is not self else [request]
        shared = [
            (kept.shared_with(marks, plan, rules), number, kept)
            for number in sources
            if number < len(old) and (kept := old[number]) is not None
        ]
        start, number, kept = max(shared, key=lambda each: each[0], default=(0, 0, None))
        if start == 0:
            return 0, None
        if earlier is not self:
            self.cache.copy_from(earlier.cache, number, request, start)
        return start, kept

    def _run_chunk(self, request: int, begin: int, end: int, inputs: dict, rows: Tensor) -> Tensor:
        """Top states `[1, n, H]` of a prompt's rows behind `begin` slots, of which `rows` are
        read."""
        size = end - begin
        nodes = None
        if begin:
            self.prefix_lens[request] = begin
            chain = torch.ones((1, size, size), dtype=torch.bool, device=self.prefix_lens.device)
            lengths = self.prefix_lens[request : request + 1]
            nodes = Nodes(pack_ancestors(chain.tril()), lengths)
        language_model = self._parts.language_model
        with self.cache.prefill_of(request, begin), only_read(language_model, rows, size) as read:
            output = language_model(
                **inputs, attention_mask=None, **self._cached, nodes=nodes, **read
            )
        self.cache.check_prefilled(size)
        return output.last_hidden_state

    def verify(self, tokens: Tensor, layout: TreeLayout) -> Verification:
        """See `sparrow_kernels.decoding.Target.verify`."""
        positions = self._position_offset + (self.prefix_lens[:, None] + layout.depth.clamp_min(0))
        parts = self._compiled or self._parts
        hidden = parts.language_model(
            inputs_embeds=parts.embedding(tokens),
            position_ids=positions,
            attention_mask=None,
            **self._cached,
            nodes=Nodes(layout.ancestors, self.prefix_lens),
        ).last_hidden_state
        return Verification(self._reader.verified(hidden), parts.lm_head(hidden))

    def enlarge(self, slots: int) -> bool:
        """See `sparrow_kernels.decoding.Target.enlarge`."""
        moved = self.cache.enlarge(slots)
        if moved:
            self._bind()
        return moved

    def _bind(self) -> None:
        """Caches lie where they do for many steps: a commit need not look at each list anew."""
        self.keys, self.values = self.cache.keys, self.cache.values
        if self.keys:
            self.keys, self.values = bind_caches(self.keys, self.values)


def _identity(parts: Parts) -> tuple[Any, ...]:
    """What graphs and caches of a target depend on: where its weights are, as what, adapters."""
    weights = tuple((p.data_ptr(), p.dtype) for p in parts.model.parameters())
    autocast = torch.is_autocast_enabled(parts.device.type)
    return (type(parts.model), weights, autocast, adapters_in_force(parts.model))


def _versions(parts: Parts) -> tuple[int, ...]:
    """How often each weight was written to: what a cache holds was computed from them."""
    parameters = parts.model.parameters()
    return tuple(0 if each.is_inference() else each._version for each in parameters)


def _chunk_size(asked: int | None, start: int, length: int) -> int:
    """Rows of a forward. Behind a prefix each has a bit for every other, so not too many."""
    return asked or (length if start == 0 else _ROWS_BEHIND_A_PREFIX)
