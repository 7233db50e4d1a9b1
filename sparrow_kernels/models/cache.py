"""A key/value cache allocated once, written in place, read where it lies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from sparrow_kernels.ops.attention import append_cache_


class PreallocatedLayer(CacheLayerMixin):
    """One layer's cache `[B, Hkv, N, D]`. It is allocated when the first keys arrive, since only
    then heads, dtype and device are known (tensor parallelism splits heads)."""

    is_compileable = False
    is_sliding = False
    is_croppable = True

    def __init__(self, capacity: int, lengths: _Lengths) -> None:
        super().__init__()
        self._capacity = capacity
        self._lengths = lengths

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        batch, heads, _, head_dim = key_states.shape
        shape = (batch, heads, self._capacity, head_dim)
        self.keys, self.values = key_states.new_empty(shape), value_states.new_empty(shape)
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """A prefill writes slots 0 … and returns its own rows; a step appends behind the
        committed slots and returns the whole buffers."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        if self._lengths.committed == 0:
            length = key_states.shape[2]
            self.keys[:, :, :length] = key_states
            self.values[:, :, :length] = value_states
            return key_states, value_states
        append_cache_(key_states, value_states, self.keys, self.values, self._lengths.prefix_lens)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._lengths.committed + query_length, 0

    def get_seq_length(self) -> int:
        return self._lengths.committed

    def get_max_length(self) -> int:
        return self._capacity

    # The name releases before 5.20 use.
    get_max_cache_shape = get_max_length


class _Lengths:
    """Committed slots, on the device for kernels and on the host for transformers."""

    def __init__(self, batch: int, device: torch.device) -> None:
        self.prefix_lens = torch.zeros(batch, dtype=torch.int32, device=device)
        self.committed = 0


class PreallocatedCache(Cache):
    """A cache of `capacity` slots a layer.

    `prefix_lens` `[B]` int32 is the truth on the device; `commit` tells the host's copy.
    """

    def __init__(self, layers: int, batch: int, capacity: int, device: torch.device) -> None:
        self._lengths = _Lengths(batch, device)
        self._own_layers = [PreallocatedLayer(capacity, self._lengths) for _ in range(layers)]
        super().__init__(layers=list(self._own_layers))
        self.capacity = capacity

    @property
    def prefix_lens(self) -> Tensor:
        """`[B]` int32 committed slots."""
        return self._lengths.prefix_lens

    @property
    def keys(self) -> list[Tensor]:
        """A `[B, Hkv, N, D]` cache a layer; none before the prefill."""
        return [layer.keys for layer in self._own_layers if layer.keys is not None]

    @property
    def values(self) -> list[Tensor]:
        """A `[B, Hkv, N, D]` cache a layer."""
        return [layer.values for layer in self._own_layers if layer.values is not None]

    def set_committed(self, length: int) -> None:
        """Commit exactly `length` slots, on both sides: after a prefill, or after a cut."""
        self._lengths.committed = length
        self._lengths.prefix_lens.fill_(length)

    def note_committed(self, length: int) -> None:
        """Tell the host's copy what a commit on the device has already done."""
        self._lengths.committed = length
