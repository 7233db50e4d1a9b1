"""A key/value cache that is written in place and read where it lies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from sparrow_kernels.models.bridge.names import installed
from sparrow_kernels.ops.attention import append_cache_


class PreallocatedLayer(CacheLayerMixin):
    """One layer's cache `[B, Hkv, N, D]`. It is allocated when the first keys arrive, since only
    then heads, dtype and device are known (tensor parallelism splits heads)."""

    is_compileable = False
    is_sliding = False
    is_croppable = True

    def __init__(self, lengths: _Lengths) -> None:
        super().__init__()
        self._lengths = lengths
        self.prefilled = 0
        """Slots that the prefill has written."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        batch, heads, _, head_dim = key_states.shape
        shape = (batch, heads, self._lengths.capacity, head_dim)
        # Under autocast keys come rotated, in float32, and values as a product has rounded them.
        self.dtype, self.device = value_states.dtype, key_states.device
        self.keys = key_states.new_empty(shape, dtype=self.dtype)
        self.values = value_states.new_empty(shape)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """A prefill writes slots 0 … and returns its own rows; a step appends behind the
        committed slots and returns the whole buffers."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        key_states = key_states.to(self.keys.dtype)
        if self._lengths.committed == 0:
            self.prefilled = key_states.shape[2]
            self.keys[:, :, : self.prefilled] = key_states
            self.values[:, :, : self.prefilled] = value_states
            return key_states, value_states
        append_cache_(key_states, value_states, self.keys, self.values, self._lengths.prefix_lens)
        return self.keys, self.values

    def enlarge(self) -> None:
        """Move to buffers of the capacity in force, with what is committed."""
        if self.keys is None or self.values is None:
            return
        committed = self._lengths.committed
        for name in ("keys", "values"):
            old = getattr(self, name)
            batch, heads, _, head_dim = old.shape
            new = old.new_empty((batch, heads, self._lengths.capacity, head_dim))
            new[:, :, :committed] = old[:, :, :committed]
            setattr(self, name, new)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._lengths.committed + query_length, 0

    def get_seq_length(self) -> int:
        return self._lengths.committed

    def get_max_length(self) -> int:
        return self._lengths.capacity

    # The name releases before 5.20 use.
    get_max_cache_shape = get_max_length


class _Lengths:
    """Committed slots, on the device for kernels and on the host for transformers."""

    def __init__(self, batch: int, capacity: int, device: torch.device) -> None:
        self.prefix_lens = torch.zeros(batch, dtype=torch.int32, device=device)
        self.committed = 0
        self.capacity = capacity


class PreallocatedCache(Cache):
    """A cache of `capacity` slots a layer, which grows when asked to.

    `prefix_lens` `[B]` int32 is the truth on the device; `commit` tells the host's copy.
    """

    def __init__(self, layers: int, batch: int, capacity: int, device: torch.device) -> None:
        self._lengths = _Lengths(batch, capacity, device)
        self._own_layers = [PreallocatedLayer(self._lengths) for _ in range(layers)]
        super().__init__(layers=list(self._own_layers))

    @property
    def capacity(self) -> int:
        """Slots a layer has room for."""
        return self._lengths.capacity

    def enlarge(self, capacity: int) -> None:
        """Make room for `capacity` slots, layer by layer; what is committed stays."""
        self._lengths.capacity = capacity
        for layer in self._own_layers:
            layer.enlarge()

    def check_prefilled(self, length: int) -> None:
        """Raise `RuntimeError` unless a prefill of `length` tokens has reached every layer.

        A cache that a release of transformers has quietly not used would be read uninitialised.
        """
        missed = [n for n, layer in enumerate(self._own_layers) if layer.prefilled != length]
        if missed:
            raise RuntimeError(
                f"a prefill of {length} tokens must be written to the cache in every layer, and was"
                f" not in {len(missed)} of {len(self._own_layers)}, layer {missed[0]} first"
                f" ({installed()})"
            )

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

    @property
    def nbytes(self) -> int:
        """Bytes of all layers' keys and values, room included."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def set_committed(self, length: int) -> None:
        """Commit exactly `length` slots, on both sides: after a prefill, or after a cut."""
        self._lengths.committed = length
        self._lengths.prefix_lens.fill_(length)

    def note_committed(self, length: int) -> None:
        """Tell the host's copy what a commit on the device has already done."""
        self._lengths.committed = length
