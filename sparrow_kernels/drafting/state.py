"""The draft at work: its text-only cache, its positions, its forward passes.

The cache holds one row per *text* token of a request, whatever the length of the clip. Behind the
committed rows lie the tree slots, which hold grown nodes only: the root is already committed, as
the last row of the refresh.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sparrow_kernels.drafting.head import DraftHead
from sparrow_kernels.drafting.network import DraftNetwork, rotary_table, rotate
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
        prompts: for each request, `[R]` int64 its text tokens x_k with k >= 1 and `[R, H]` for
            each the target's top state at the slot before it.
        new_tokens: tokens to begin with room for.
        tree_slots: cache slots a growing tree needs behind the committed rows.
        max_path: S, rows of a refresh.
    """

    def __init__(
        self,
        network: DraftNetwork,
        embedding: nn.Module,
        head: DraftHead,
        theta: float,
        prompts: Sequence[tuple[Tensor, Tensor]],
        new_tokens: int,
        tree_slots: int,
        max_path: int,
    ) -> None:
        shape, weight = network.shape, network.embedding_norm
        self.network, self._embedding, self._theta = network, embedding, theta
        empty = (len(prompts), shape.kv_heads, 0, shape.head_dim)
        self.key_cache, self.value_cache = weight.new_zeros(empty), weight.new_zeros(empty)
        self.prefix_lens = torch.zeros(len(prompts), dtype=torch.int32, device=weight.device)
        self._extra = tree_slots + max_path  # a refresh also writes the rows it will not keep
        chain = torch.ones((1, max_path, max_path), dtype=torch.bool, device=weight.device).tril()
        self._chain = pack_ancestors(chain)
        self._head = head
        self.begin(prompts, new_tokens)

    def begin(self, prompts: Sequence[tuple[Tensor, Tensor]], new_tokens: int) -> bool:
        """Serve a call, with the prompts' rows committed; whether buffers have moved."""
        self._text_rows = max(len(tokens) for tokens, _ in prompts)
        lengths = torch.tensor([len(tokens) for tokens, _ in prompts], dtype=torch.int32)
        self.prefix_lens.copy_(lengths)
        moved = self.enlarge(new_tokens)
        for request, (tokens, hidden) in enumerate(prompts):
            self._prefill(request, tokens, hidden)
        return moved

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, room included."""
        return self.key_cache.nbytes + self.value_cache.nbytes

    def enlarge(self, new_tokens: int) -> bool:
        """Make room for `new_tokens` after each prompt; whether buffers have moved."""
        capacity = self._text_rows + new_tokens + self._extra
        if capacity <= self.key_cache.shape[2]:
            return False
        capacity = max(capacity, 2 * self.key_cache.shape[2])
        self.key_cache = _enlarged(self.key_cache, capacity)
        self.value_cache = _enlarged(self.value_cache, capacity)
        weight, head_dim = self.network.embedding_norm, self.network.shape.head_dim
        table = rotary_table(capacity, head_dim, self._theta, weight.device, weight.dtype)
        self._cos, self._sin = table
        self._steps = torch.arange(capacity, device=weight.device)
        return True

    @in_own_precision
    def _prefill(self, request: int, tokens: Tensor, hidden: Tensor) -> None:
        """Commit a prompt's text rows: their keys and values, since nobody reads their outputs."""
        length = len(tokens)
        if length == 0:
            return
        rows = self._rows(tokens[None], hidden[None])
        _, key, value = self.network.query_key_value(rows)
        self.key_cache[request, :, :length] = rotate(key[0], self._cos[:length], self._sin[:length])
        self.value_cache[request, :, :length] = value[0]

    @in_own_precision
    def refresh(self, acceptance: Acceptance, path_hidden: Tensor) -> Tensor:
        """Commit the emitted tokens with their true states; returns the new root's output `[B, H]`.

        Rows past `num_emitted` are computed too, so that shapes never depend on a decision; they
        land behind the committed rows, where the next tree overwrites them.

        Args:
            acceptance: the last verification's decision, `tokens` `[B, S]`.
            path_hidden: `[B, S, H]` the target's top states along the accepted path.
        """
        tokens = acceptance.tokens.clamp_min(0)
        length = tokens.shape[1]
        ancestors = self._chain.expand(tokens.shape[0], -1, -1)
        positions = self.prefix_lens[:, None] + self._steps[:length]
        output = self._forward(tokens, path_hidden, positions, self.prefix_lens, ancestors)
        self.prefix_lens += acceptance.accept_length + 1
        last = acceptance.accept_length.clamp_min(0).long()[:, None, None]
        return output.take_along_dim(last, dim=1)[:, 0]

    @in_own_precision
    def grow(
        self, tokens: Tensor, hidden: Tensor, depth: int, first_slot: int, ancestors: Tensor
    ) -> Tensor:
        """One level of grown nodes. Returns their outputs `[B, width, H]`.

        Args:
            tokens: `[B, width]` int64 tokens of the level's nodes.
            hidden: `[B, width, H]` their parents' draft outputs.
            depth: the level's depth in the tree, root 0.
            first_slot: tree slot of the level's first node.
            ancestors: `[B, width, W]` int64 words over tree slots, own bit included.
        """
        # The root, at depth 0, is the last committed row.
        positions = (self.prefix_lens + (depth - 1))[:, None].expand(-1, tokens.shape[1])
        slots = self.prefix_lens + first_slot
        return self._forward(tokens, hidden, positions, slots, ancestors)

    @in_own_precision
    def best(self, hidden: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """See `DraftHead.best`."""
        return self._head.best(hidden, width)

    @in_own_precision
    def logits(self, hidden: Tensor) -> Tensor:
        """See `DraftHead.logits`."""
        return self._head.logits(hidden)

    def _forward(
        self, tokens: Tensor, hidden: Tensor, positions: Tensor, slots: Tensor, ancestors: Tensor
    ) -> Tensor:
        rows = self._rows(tokens, hidden)
        query, key, value = self.network.query_key_value(rows)
        positions = positions.long()
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

    def _rows(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        weight = self.network.embedding_norm
        embedded = self._embedding(tokens).to(weight.dtype)
        return self.network.rows(embedded, hidden.to(weight.device, weight.dtype))


def _enlarged(cache: Tensor, capacity: int) -> Tensor:
    """`[B, Hkv, capacity, D]` with the rows of `cache` in front."""
    batch, heads, rows, head_dim = cache.shape
    enlarged = cache.new_zeros((batch, heads, capacity, head_dim))
    enlarged[:, :, :rows] = cache
    return enlarged
