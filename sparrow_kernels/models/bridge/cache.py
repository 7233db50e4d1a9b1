"""A key/value cache that is written in place and read where it lies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from sparrow_kernels.models.bridge.names import installed
from sparrow_kernels.ops.attention import append_cache_


class _Prefilling(NamedTuple):
    """A prefill writes one request's slots from `offset` on."""

    request: int
    offset: int


class PreallocatedLayer(CacheLayerMixin):
    """One layer's cache `[B, Hkv, N, D]`. It is allocated when the first keys arrive, since only
    then heads, dtype and device are known (tensor parallelism splits heads)."""

    is_compileable = False
    is_sliding = False
    is_croppable = True

    def __init__(self, owner: PreallocatedCache) -> None:
        super().__init__()
        self._owner = owner
        self.prefilled = 0
        """Slots that a prefill has written since it began."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        if key_states.shape != value_states.shape:
            raise NotImplementedError(
                "target must cache keys and values of one shape, [batch, heads, tokens, head_dim],"
                f" got {list(key_states.shape)} and {list(value_states.shape)}, as latent attention"
                " does (see docs/adding-a-model.md for what a target needs)"
            )
        _, heads, _, head_dim = key_states.shape
        shape = (self._owner.batch, heads, self._owner.capacity, head_dim)
        # Under autocast keys come rotated, in float32, and values as a product has rounded them.
        self.dtype, self.device = value_states.dtype, key_states.device
        self.keys = key_states.new_empty(shape, dtype=self.dtype)
        self.values = value_states.new_empty(shape)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """A step appends behind the committed slots and returns the whole buffers. A prefill
        writes one request's slots, and returns its own rows if they are the first, else that
        request's whole buffers."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        key_states = key_states.to(self.keys.dtype)
        prefilling = self._owner.prefilling
        if prefilling is None:
            lengths = self._owner.prefix_lens
            append_cache_(key_states, value_states, self.keys, self.values, lengths)
            return self.keys, self.values
        request, begin = prefilling
        end = begin + key_states.shape[2]
        self.keys[request, :, begin:end] = key_states[0]
        self.values[request, :, begin:end] = value_states[0]
        self.prefilled += end - begin
        if begin == 0:
            return key_states, value_states
        return self.keys[request : request + 1], self.values[request : request + 1]

    def move(self, capacity: int, used: int) -> None:
        """Move to buffers of `capacity` slots, with the first `used`."""
        if self.keys is None or self.values is None:
            return
        for name in ("keys", "values"):
            old = getattr(self, name)
            batch, heads, _, head_dim = old.shape
            new = old.new_empty((batch, heads, capacity, head_dim))
            new[:, :, :used] = old[:, :, :used]
            setattr(self, name, new)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return self._owner.get_seq_length()

    def get_max_length(self) -> int:
        return self._owner.capacity

    # The name releases before 5.20 use.
    get_max_cache_shape = get_max_length


class PreallocatedCache(Cache):
    """A cache of `capacity` slots a layer and request, which grows when asked to.

    `prefix_lens` `[B]` int32, on the device, is the one truth about how much of it is committed.
    """

    def __init__(self, layers: int, batch: int, capacity: int, device: torch.device) -> None:
        self.batch, self.capacity = batch, capacity
        self.prefix_lens = torch.zeros(batch, dtype=torch.int32, device=device)
        self.prefilling: _Prefilling | None = None
        self.workspace: Any = None
        """Where it lies, once a call has handed it out."""
        self._own_layers = [PreallocatedLayer(self) for _ in range(layers)]
        super().__init__(layers=list(self._own_layers))

    def __getstate__(self) -> dict[str, Any]:
        """What a copy has: keys and values, but not the buffers of the calls that made them."""
        return {**self.__dict__, "workspace": None}

    def enlarge(self, capacity: int) -> bool:
        """Make room for `capacity` slots, layer by layer; whether buffers have moved."""
        if capacity <= self.capacity:
            return False
        used, self.capacity = self.capacity, capacity
        for layer in self._own_layers:
            layer.move(capacity, used)
        return True

    @contextmanager
    def prefill_of(self, request: int, offset: int) -> Iterator[None]:
        """Inside the block forwards write this request's slots from `offset` on."""
        self.prefilling = _Prefilling(request, offset)
        for layer in self._own_layers:
            layer.prefilled = 0
        try:
            yield
        finally:
            self.prefilling = None

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

    def copy_request(self, source: int, request: int, length: int) -> None:
        """Give `request` the first `length` slots of `source`."""
        self.copy_from(self, source, request, length)
        self.prefix_lens[request] = length

    def copy_from(self, other: PreallocatedCache, source: int, request: int, length: int) -> None:
        """Give `request` the first `length` slots of a request of `other`."""
        for own, theirs in zip(self._own_layers, other._own_layers, strict=True):
            assert theirs.keys is not None and theirs.values is not None
            if not own.is_initialized:
                own.lazy_initialization(theirs.keys, theirs.values)
            assert own.keys is not None and own.values is not None
            own.keys[request, :, :length] = theirs.keys[source, :, :length]
            own.values[request, :, :length] = theirs.values[source, :, :length]

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

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """What transformers may be told without asking the device: where a prefill stands.

        A step's positions are passed, and its lengths are read where they lie.
        """
        return 0 if self.prefilling is None else self.prefilling.offset
