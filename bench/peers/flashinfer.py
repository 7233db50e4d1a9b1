"""FlashInfer (0.3.1): one packed mask over the whole of a request, or prefix and tree merged.

Its paged kernels read a cache `[B, Hkv, N, D]` as it lies: a page is 64 slots of every KV head. (It
hands whole pages to blocks, so a page as long as a request would leave most of a GPU idle.) Masks,
plans and the query in its order of rows are made before the clock starts. `fa2`: its other kernels
take no mask, and do not split a long prefix between blocks. Kernels are compiled at first use.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.case import Arguments, Call, Way
from bench.peers.sdpa import tree_mask
from sparrow_kernels.ops.tree import unpack_ancestors

_PAGE = 64
_WORKSPACE_BYTES = 512 << 20
"""For what the parts of a split prefix leave behind; more than any case here needs."""
HEAD_DIMS = (64, 128, 256)
DTYPES = (torch.bfloat16, torch.float16)


def tree_attention(device: torch.device, prefix: int, *, nodes: int, batch: int) -> list[Way]:
    def way(name: str, prepare: Callable[[Arguments, int], Call]) -> Way:
        def prepared(arguments: Arguments) -> Call:
            _refuse(arguments)
            return prepare(arguments, prefix)

        reason = missing(device)
        compiles = reason is None and not _has_compiled()
        return Way(f"flashinfer, {name}", False, prepared, reason, _heads_first, compiles)

    cascade = way("cascade + merge", _cascade)
    if nodes == 1:
        on_tensor_cores = partial(_decode, use_tensor_cores=True)
        return [way("decode", _decode), way("decode, tensor cores", on_tensor_cores), cascade]
    single = [way("packed mask, single request", _single)] if batch == 1 else []
    return [way("packed mask", _masked), *single, cascade]


@cache
def library() -> Any:
    """FlashInfer, or the reason why it is not here."""
    try:
        return import_module("flashinfer")
    except Exception as error:  # it needs a dozen packages, each of which can fail in its own way
        return f"flashinfer cannot be imported: {type(error).__name__}: {error}"


def missing(device: torch.device) -> str | None:
    if device.type != "cuda":
        return "flashinfer needs a GPU"
    found = library()
    return found if isinstance(found, str) else None


def kernels(dtype: torch.dtype) -> list[Any]:
    """What it compiles for head dim 128: specifications for its `jit.build_jit_specs`."""
    jit, types = library().jit, (dtype, dtype, dtype)
    plain = (128, 128, 0, False, False)  # no positions, no window, no cap on scores
    return [
        jit.gen_batch_prefill_module("fa2", *types, torch.int32, *plain, False),
        jit.gen_single_prefill_module("fa2", *types, *plain, False),
        jit.gen_batch_decode_module(*types, torch.int32, *plain),
        library().cascade.gen_cascade_module(),
        library().quantization.gen_quantization_module(),
    ]


class _Pages(NamedTuple):
    """The same slots of every request, as pages of the cache."""

    key: Tensor  # [pages, Hkv, page, D], strided
    value: Tensor
    starts: Tensor  # [B + 1] int32: a request's pages are numbers[starts[b]:starts[b + 1]]
    numbers: Tensor  # [B * pages of a request] int32
    last: Tensor  # [B] int32: slots in the last page

    @classmethod
    def first(cls, arguments: Arguments, slots: int) -> _Pages:
        """Slots 0 to `slots`."""
        key = arguments["key"]
        batch, kv_heads, capacity, head_dim = key.shape
        page = math.gcd(_PAGE, capacity)
        of_request = kv_heads * capacity // page  # a request begins so many pages after another
        each = -(-slots // page)
        pages = (batch - 1) * of_request + capacity // page
        shape = (pages, kv_heads, page, head_dim)
        stride = (page * head_dim, capacity * head_dim, head_dim, 1)
        key, value = (arguments[name].as_strided(shape, stride) for name in ("key", "value"))
        request = torch.arange(batch, dtype=torch.int32, device=key.device)
        page_of = torch.arange(each, dtype=torch.int32, device=key.device)
        numbers = request.unsqueeze(1) * of_request + page_of
        return cls(key, value, *_counted(numbers, slots - (each - 1) * page))

    @classmethod
    def between(cls, arguments: Arguments, begin: int, end: int) -> _Pages:
        """Slots `begin` to `end`, few: one page a request."""
        key, value = (arguments[name][:, :, begin:end] for name in ("key", "value"))
        numbers = torch.arange(key.shape[0], dtype=torch.int32, device=key.device)
        return cls(key, value, *_counted(numbers.unsqueeze(1), end - begin))

    @property
    def shape(self) -> tuple[int, int]:
        """KV heads, slots of a page."""
        return self.key.shape[1], self.key.shape[2]

    @property
    def cache(self) -> tuple[Tensor, Tensor]:
        return self.key, self.value


def _counted(numbers: Tensor, last: int) -> tuple[Tensor, Tensor, Tensor]:
    batch, each = numbers.shape
    starts = _starts(batch, each, numbers.device)
    return starts, numbers.flatten(), torch.full_like(starts[1:], last)


def _starts(batch: int, each: int, device: torch.device) -> Tensor:
    return each * torch.arange(batch + 1, dtype=torch.int32, device=device)


def _masked(arguments: Arguments, prefix: int) -> Call:
    """Every request's rows against its whole cache, under a mask of all of it."""
    nodes = arguments["query"].shape[2]
    pages = _Pages.first(arguments, prefix + nodes)
    return _planned(arguments, pages, tree_mask(arguments, prefix))


def _single(arguments: Arguments, prefix: int) -> Call:
    """Its function for one request."""
    (mask,) = tree_mask(arguments, prefix)
    packed = library().quantization.packbits(mask.flatten(), bitorder="little")
    key, value = (arguments[name][0, :, : mask.shape[-1]] for name in ("key", "value"))
    rows = _rows(arguments)
    return lambda: library().single_prefill_with_kv_cache(
        rows, key, value, packed_custom_mask=packed, kv_layout="HND", backend="fa2"
    )


def _cascade(arguments: Arguments, prefix: int) -> Call:
    """The prefix without a mask, the tree under a small one, merged by their log-sum-exp."""
    ancestors = arguments["ancestors"]
    nodes = ancestors.shape[1]
    over_prefix = _planned(arguments, _Pages.first(arguments, prefix), None)
    tree = _Pages.between(arguments, prefix, prefix + nodes)
    over_tree = _planned(arguments, tree, unpack_ancestors(ancestors, nodes))
    merge = library().merge_state_in_place

    def call() -> Tensor:
        out, lse = over_prefix(return_lse=True)
        merge(out, lse, *over_tree(return_lse=True))
        return out

    return call


def _decode(arguments: Arguments, prefix: int, *, use_tensor_cores: bool = False) -> Call:
    """One row a request. Without tensor cores it has no kernel for some group sizes, 7 of them."""
    query = arguments["query"]
    pages = _Pages.first(arguments, prefix + 1)
    kv_heads, page = pages.shape
    wrapper = library().BatchDecodeWithPagedKVCacheWrapper(
        _workspace(query.device), "HND", use_tensor_cores=use_tensor_cores
    )
    wrapper.plan(
        *pages[2:], query.shape[1], kv_heads, query.shape[-1], page,
        q_data_type=query.dtype, kv_data_type=query.dtype,
    )  # fmt: skip
    rows = _rows(arguments)
    return lambda: wrapper.run(rows, pages.cache)


def _planned(arguments: Arguments, pages: _Pages, mask: Tensor | None) -> Callable[..., Any]:
    """Its paged prefill over these pages; `mask` `[B, T, slots]`, packed by its plan."""
    batch, heads, nodes, head_dim = arguments["query"].shape
    rows = _rows(arguments)
    kv_heads, page = pages.shape
    wrapper = library().BatchPrefillWithPagedKVCacheWrapper(
        _workspace(rows.device), "HND", backend="fa2"
    )
    wrapper.plan(
        _starts(batch, nodes, rows.device), *pages[2:], heads, kv_heads, head_dim, page,
        custom_mask=None if mask is None else mask.flatten(),
        q_data_type=rows.dtype, kv_data_type=rows.dtype,
    )  # fmt: skip
    return lambda **keywords: wrapper.run(rows, pages.cache, **keywords)


def _rows(arguments: Arguments) -> Tensor:
    """`[B * T, Hq, D]`."""
    return arguments["query"].transpose(1, 2).flatten(0, 1).contiguous()


def _heads_first(arguments: Arguments, out: Tensor) -> Tensor:
    batch, heads, nodes, head_dim = arguments["query"].shape
    return out.view(batch, nodes, heads, head_dim).transpose(1, 2)


@cache
def _workspace(device: torch.device) -> Tensor:
    """One for all: calls follow one another on a stream."""
    return torch.empty(_WORKSPACE_BYTES, dtype=torch.uint8, device=device)


def _refuse(arguments: Arguments) -> None:
    """Say at once what its compiler would take a minute to fail at."""
    query = arguments["query"]
    if query.shape[-1] not in HEAD_DIMS:
        raise NotImplementedError(f"no kernel for head dim {query.shape[-1]}")
    if query.dtype not in DTYPES:
        raise NotImplementedError(f"no kernel for {query.dtype}")


def _has_compiled() -> bool:
    """Whether it has compiled here before, as the suite's part `peers` makes it."""
    return any(library().jit.env.FLASHINFER_JIT_DIR.glob("*/*.so"))
