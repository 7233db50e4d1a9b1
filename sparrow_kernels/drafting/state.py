"""One request's draft at work: its text-only cache, its positions, its forward passes.

The cache holds one row per *text* token, whatever the length of the clip. Behind the committed
rows lie the tree slots, which hold grown nodes only: the root is already committed, as the last
row of the refresh.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparrow_kernels.drafting.network import DraftNetwork, rotary_table, rotate
from sparrow_kernels.ops.attention import rotate_append_, tree_attention
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
        lm_head: the target's LM head.
        theta: base of the rotary embedding.
        capacity: cache slots, committed rows and tree slots together.
        banned: `[K]` int64 ids never drafted: placeholders of clips and images, and the stop ids
            in force, so that a stop always arrives as the bonus token.
    """

    def __init__(
        self,
        network: DraftNetwork,
        embedding: nn.Module,
        lm_head: nn.Module,
        theta: float,
        capacity: int,
        banned: Tensor,
    ) -> None:
        shape = network.shape
        weight = network.fc.weight
        self._network = network
        self._embedding = embedding
        self._lm_head = lm_head
        self._banned = banned
        self._theta = theta
        empty = (1, shape.kv_heads, 0, shape.head_dim)
        self.key_cache, self.value_cache = weight.new_zeros(empty), weight.new_zeros(empty)
        self.prefix_lens = torch.zeros(1, dtype=torch.int32, device=weight.device)
        self.enlarge(capacity)
        self._chain = _chain_words(64, weight.device)

    def enlarge(self, capacity: int) -> None:
        """Make room for `capacity` cache slots, tree slots included; what is committed stays."""
        self.key_cache = _enlarged(self.key_cache, capacity)
        self.value_cache = _enlarged(self.value_cache, capacity)
        weight, head_dim = self._network.fc.weight, self._network.shape.head_dim
        table = rotary_table(capacity, head_dim, self._theta, weight.device, weight.dtype)
        self._cos, self._sin = table
        self._steps = torch.arange(capacity, device=weight.device)

    @in_own_precision
    def prefill(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """Commit the prompt's text rows, root row last. Returns the root's draft output `[B, H]`.

        Args:
            tokens: `[B, R]` int64, the text tokens x_k with k >= 1, in order, then the root.
            hidden: `[B, R, H]`, for each the target's top state at the slot before it.
        """
        rows = self._rows(tokens, hidden)
        length = rows.shape[1]
        query, key, value = self._network.query_key_value(rows)
        cos, sin = self._cos[:length], self._sin[:length]
        key = rotate(key, cos, sin)
        self.key_cache[:, :, :length] = key
        self.value_cache[:, :, :length] = value
        # Only the last row's output is needed: later rows read keys and values, never outputs.
        attended = F.scaled_dot_product_attention(
            rotate(query[:, :, -1:], cos[-1:], sin[-1:]), key, value, enable_gqa=True
        )
        self.prefix_lens.fill_(length)
        return self._network.finish(rows[:, -1:], attended)[:, -1]

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
        ancestors = self._chain_of(tokens.shape[1]).expand(tokens.shape[0], -1, -1)
        positions = self.prefix_lens[:, None] + self._steps[: tokens.shape[1]]
        output = self._forward(tokens, path_hidden, positions, self.prefix_lens, ancestors)
        num_emitted = acceptance.accept_length + 1
        self.prefix_lens += num_emitted
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
    def logits(self, hidden: Tensor) -> Tensor:
        """LM head over draft outputs `[..., H]` -> `[..., V]`, banned ids at -inf."""
        return self._lm_head(hidden).index_fill_(-1, self._banned, float("-inf"))

    def _forward(
        self, tokens: Tensor, hidden: Tensor, positions: Tensor, slots: Tensor, ancestors: Tensor
    ) -> Tensor:
        rows = self._rows(tokens, hidden)
        query, key, value = self._network.query_key_value(rows)
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
        return self._network.finish(rows, attended)

    def _rows(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        weight = self._network.fc.weight
        embedded = self._embedding(tokens).to(weight.dtype)
        return self._network.rows(embedded, hidden.to(weight.device, weight.dtype))

    def _chain_of(self, length: int) -> Tensor:
        if length > self._chain.shape[1]:
            self._chain = _chain_words(length, self._chain.device)
        words = (length + 63) // 64
        return self._chain[:, :length, :words]


def _enlarged(cache: Tensor, capacity: int) -> Tensor:
    """`[B, Hkv, capacity, D]` with the rows of `cache` in front."""
    batch, heads, rows, head_dim = cache.shape
    enlarged = cache.new_zeros((batch, heads, capacity, head_dim))
    enlarged[:, :, :rows] = cache
    return enlarged


def _chain_words(length: int, device: torch.device) -> Tensor:
    """`[1, length, W]` ancestor words of a chain: row i has bits 0 … i set."""
    rows = torch.arange(length)
    words = []
    for word in range((length + 63) // 64):
        bits = (rows - 64 * word + 1).clamp(0, 64)
        words.append(torch.tensor([_low_bits(int(count)) for count in bits]))
    return torch.stack(words, dim=-1)[None].to(device)


def _low_bits(count: int) -> int:
    """The int64 whose lowest `count` bits are set; 64 of them are -1 in two's complement."""
    return -1 if count == 64 else (1 << count) - 1
