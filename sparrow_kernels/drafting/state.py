"""The draft at work: its cache, its positions, its forward passes.

The cache holds one row per *text* token of a request, whatever the length of the clip, unless the
draft is let see the clip too. Behind the committed rows lie the tree slots, which hold grown nodes
only: the root is already committed, as the last row of the refresh.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sparrow_kernels.drafting.clip_rows import ClipRows, adapted, clip_rows
from sparrow_kernels.drafting.head import DraftHead
from sparrow_kernels.drafting.network import DraftNetwork
from sparrow_kernels.drafting.rotary import rotary, rotary_table, rotate
from sparrow_kernels.drafting.rows import TEXT_ALONE, PromptRows, RowRules
from sparrow_kernels.ops.attention import rotate_append_, tree_attention
from sparrow_kernels.ops.tree import pack_ancestors
from sparrow_kernels.ops.types import Acceptance

_Method = TypeVar("_Method", bound=Callable[..., Any])


def in_own_precision(method: _Method) -> _Method:
    """Run a method of `DraftState` in the dtype of the draft's weights, also under autocast.

    Autocast would mix dtypes within a layer that shares one cache, and a draft decides nothing.
    """

    @functools.wraps(method)
    def run(self: DraftState, *arguments: Any, **keywords: Any) -> Any:
        device = self.prefix_lens.device.type
        if not torch.is_autocast_enabled(device):
            return method(self, *arguments, **keywords)
        with torch.autocast(device, enabled=False):
            return method(self, *arguments, **keywords)

    return run  # type: ignore[return-value]


class DraftState:
    """The draft's side of one decoding loop.

    Args:
        network: the draft layer, with weights in the target's dtype.
        embedding: the target's token embedding.
        head: what turns outputs into tokens.
        theta: base of the rotary embedding.
        prompts: for each request the rows that its prompt is read as.
        new_tokens: tokens to begin with room for.
        tree_slots: cache slots a growing tree needs behind the committed rows.
        max_path: S, rows of a refresh.
        rules: how prompts were read.
    """

    def __init__(
        self,
        network: DraftNetwork,
        embedding: nn.Module,
        head: DraftHead,
        theta: float,
        prompts: Sequence[PromptRows],
        new_tokens: int,
        tree_slots: int,
        max_path: int,
        rules: RowRules = TEXT_ALONE,
    ) -> None:
        shape, weight = network.shape, network.mlp_norm
        self.network, self._theta, self._rules = network, theta, rules
        self._embedding = network.embedding if shape.embedding_size else embedding
        batch = len(prompts)
        empty = (batch, shape.kv_heads, 0, shape.head_dim)
        self.key_cache, self.value_cache = weight.new_zeros(empty), weight.new_zeros(empty)
        self.prefix_lens = torch.zeros(batch, dtype=torch.int32, device=weight.device)
        self._offset = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        """What a row's position is more than its place in the cache."""
        self._shift = weight.new_zeros((batch, 1, shape.hidden)) if shape.clip_queries else None
        self._table_rows = 0
        self._extra = tree_slots + max_path  # a refresh also writes the rows it will not keep
        chain = torch.ones((1, max_path, max_path), dtype=torch.bool, device=weight.device).tril()
        self._chain = pack_ancestors(chain)
        self._head = head
        self.begin(prompts, new_tokens)

    def begin(self, prompts: Sequence[PromptRows], new_tokens: int) -> bool:
        """Serve a call, with the prompts' rows committed; whether buffers have moved."""
        lengths = [self._rows_of(rows) for rows in prompts]
        offsets = [rows.next_position - n for rows, n in zip(prompts, lengths, strict=True)]
        self._prompt_rows, self._highest_offset = max(lengths), max(0, *offsets)
        self.prefix_lens.copy_(torch.tensor(lengths, dtype=torch.int32))
        self._offset.copy_(torch.tensor(offsets))
        moved = self.enlarge(new_tokens)
        for request, rows in enumerate(prompts):
            self._prefill(request, rows)
        return moved

    def _rows_of(self, rows: PromptRows) -> int:
        """Cache rows that a prompt takes."""
        if rows.clip is None:
            return len(rows.tokens)
        if self._rules.sees_clip != "adaptor":
            return len(rows.tokens) + len(rows.clip)
        return len(rows.tokens) + sum(adapted(self.network, run) for run in rows.clip_runs)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, room included."""
        return self.key_cache.nbytes + self.value_cache.nbytes

    def enlarge(self, new_tokens: int) -> bool:
        """Make room for `new_tokens` after each prompt; whether buffers have moved."""
        capacity = self._prompt_rows + new_tokens + self._extra
        moved = capacity > self.key_cache.shape[2]
        if moved:
            capacity = max(capacity, 2 * self.key_cache.shape[2])
            self.key_cache = _enlarged(self.key_cache, capacity)
            self.value_cache = _enlarged(self.value_cache, capacity)
        positions = self.key_cache.shape[2] + self._highest_offset
        if positions > self._table_rows:
            positions = max(positions, 2 * self._table_rows)  # as the caches
            self._table_rows, moved = positions, True
            weight, head_dim = self.network.mlp_norm, self.network.shape.head_dim
            table = rotary_table(positions, head_dim, self._theta, weight.device, weight.dtype)
            self._cos, self._sin = table
            self._steps = torch.arange(positions, device=weight.device)
        return moved

    @in_own_precision
    def _prefill(self, request: int, prompt: PromptRows) -> None:
        """Commit a prompt's rows: their keys and values, since nobody reads their outputs.

        So they do not attend to one another, and their order in the cache is of no account.
        """
        weight, length = self.network.mlp_norm, len(prompt.tokens)
        clip = None
        if prompt.clip is not None:
            clip = clip_rows(
                self.network, self._rules.sees_clip, prompt.clip.to(weight), prompt.clip_runs
            )
        shift = self._shift_of(request, prompt, clip)
        if length:
            embedded = prompt.embeddings
            if embedded is None:
                embedded = self._embedding(prompt.tokens.clamp_min(0))
            embedded, states = embedded.to(weight), prompt.states.to(weight)
            rows = self.network.rows(embedded, states, 0, shift)
            self._write(request, 0, rows, prompt.positions)
        if clip is not None and prompt.clip_positions is not None:
            self._write(request, length, clip.rows, prompt.clip_positions[..., clip.places])

    def _write(self, request: int, first: int, rows: Tensor, positions: Tensor) -> None:
        """Keys and values of rows `[n, H | 2H]`, from cache row `first` on."""
        shape, rules = self.network.shape, self._rules
        _, key, value = self.network.query_key_value(rows[None])
        sections = rules.mrope_section if positions.ndim == 2 else None
        table = rotary(
            positions, shape.head_dim, self._theta, key.dtype, sections, rules.mrope_interleaved
        )
        last = first + len(rows)
        self.key_cache[request, :, first:last] = rotate(key[0], *table)
        self.value_cache[request, :, first:last] = value[0]

    def _shift_of(self, request: int, prompt: PromptRows, clip: ClipRows | None) -> Tensor | None:
        """What clips add to a prompt's rows `[R, H]`; kept for the rows that come."""
        if self._shift is None:
            return None
        self._shift[request] = 0
        if clip is None or clip.shifts is None or prompt.runs_before is None:
            return None
        self._shift[request] = clip.shifts[-1]
        return clip.shifts[prompt.runs_before]

    @in_own_precision
    def refresh(self, acceptance: Acceptance, path_hidden: Tensor) -> Tensor:
        """Commit the emitted tokens with their true states; returns the new root's output `[B, H]`.

        Rows past `num_emitted` are computed too, so that shapes never depend on a decision; they
        land behind the committed rows, where the next tree overwrites them.

        Args:
            acceptance: the last verification's decision, `tokens` `[B, S]`.
            path_hidden: `[B, S, state_width]` the target's states along the accepted path.
        """
        tokens = acceptance.tokens.clamp_min(0)
        length = tokens.shape[1]
        ancestors = self._chain.expand(tokens.shape[0], -1, -1)
        steps = self._steps[:length].expand(len(tokens), -1)
        output = self._forward(tokens, path_hidden, 0, steps, self.prefix_lens, ancestors)
        self.prefix_lens += acceptance.accept_length + 1
        last = acceptance.accept_length.clamp_min(0).long()[:, None, None]
        return output.take_along_dim(last, dim=1)[:, 0]

    @in_own_precision
    def grow(
        self, tokens: Tensor, hidden: Tensor, depth: int, first_slot: int, ancestors: Tensor
    ) -> Tensor:
        """See `sparrow_kernels.decoding.Draft.grow`."""
        # The root, at depth 0, is the last committed row.
        steps = self._steps[depth - 1].expand(tokens.shape)
        slots = self.prefix_lens + first_slot
        return self._forward(tokens, hidden, depth, steps, slots, ancestors)

    @in_own_precision
    def best(self, hidden: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """See `DraftHead.best`."""
        return self._head.best(hidden, width)

    @in_own_precision
    def logits(self, hidden: Tensor) -> Tensor:
        """See `DraftHead.logits`."""
        return self._head.logits(hidden)

    def _forward(
        self,
        tokens: Tensor,
        states: Tensor,
        depth: int,
        steps: Tensor,
        slots: Tensor,
        ancestors: Tensor,
    ) -> Tensor:
        """Outputs `[B, n, H]` of rows that lie `steps` `[B, n]` behind the committed ones."""
        weight = self.network.mlp_norm
        embedded = self._embedding(tokens).to(weight.dtype)
        states = states.to(weight.device, weight.dtype)
        rows = self.network.rows(embedded, states, depth, self._shift)
        query, key, value = self.network.query_key_value(rows)
        positions = (self.prefix_lens + self._offset)[:, None] + steps
        query = rotate_append_(
            query,
            key,
            value,
            self._cos[positions],
            self._sin[positions],
            self.key_cache,
            self.value_cache,
            slots,
        )
        attended = tree_attention(
            query, self.key_cache, self.value_cache, ancestors, self.prefix_lens
        )
        return self.network.finish(rows, attended)


def _enlarged(cache: Tensor, capacity: int) -> Tensor:
    """`[B, Hkv, capacity, D]` with the rows of `cache` in front."""
    batch, heads, rows, head_dim = cache.shape
    enlarged = cache.new_zeros((batch, heads, capacity, head_dim))
    enlarged[:, :, :rows] = cache
    return enlarged
