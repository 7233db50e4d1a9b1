"""Launches the tree kernel: how a call is cut into programs, and the merge of its splits.

Everything that decides the launch is known without reading a tensor, so nothing waits for the GPU,
and a captured graph stays right when the lengths change. What is decided is remembered by shape:
a decode step makes the same call in every layer.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparrow_kernels.ops.attention.triton import configurations, tuning
from sparrow_kernels.ops.attention.triton.configurations import Configuration
from sparrow_kernels.ops.attention.triton.launch import Grid, aligned, current, launch
from sparrow_kernels.ops.attention.triton.merge import merge_splits
from sparrow_kernels.ops.attention.triton.tree import tree_kernel
from sparrow_kernels.ops.pages import num_slots

_BEFORE_OUT = 12  # arguments after the query that come before `out` in the form that writes there
_MOST = 65_535  # programs along an axis of a grid behind the first
_LARGEST_WINDOW = 2**62  # beyond any distance; sums with it stay in 64 bits


class Plan(NamedTuple):
    """How one call is cut into programs."""

    configuration: Configuration
    num_splits: int


class Shape(NamedTuple):
    """What a plan may depend on."""

    device: torch.device
    dtype: torch.dtype
    batch: int
    kv_heads: int
    rows: int
    """T * G."""
    head_dim: int
    slots: int
    """The most that a row can see of the cache."""
    anchored: bool
    num_splits: int | None
    """As the caller gave it; then the tiles depend on device, dtype and head dim alone."""
    indirect: bool = False
    """Whether a tile's keys wait for another load: their pages, or a bias that takes some away."""
    biased: bool = False
    float8: bool = False
    """Whether keys and values are stored in it; the dtype above is that of the rows."""


class Device(NamedTuple):
    """A GPU, as far as plans depend on it."""

    arch: int
    multiprocessors: int
    dependent_launch: bool
    """Whether a kernel may be launched while the one it waits for is still at work."""


@lru_cache
def device_facts(device: torch.device) -> Device:
    """A CPU, under the interpreter, counts as a GPU of four multiprocessors."""
    if device.type != "cuda":
        return Device(configurations.INTERPRETER, 4, False)
    facts = torch.cuda.get_device_properties(device)
    arch = configurations.architecture((facts.major, facts.minor))
    return Device(arch, facts.multi_processor_count, facts.major == 9)


@lru_cache(maxsize=4096)
def plan(shape: Shape) -> Plan:
    """The table's choice for a call of this shape."""
    facts = device_facts(shape.device)
    chosen = configurations.choose(
        facts.arch,
        shape.dtype,
        shape.head_dim,
        shape.anchored,
        shape.rows,
        fixed=shape.num_splits is not None,
        indirect=shape.indirect,
        biased=shape.biased,
        float8=shape.float8,
    )
    return with_splits(shape, chosen)


def with_splits(shape: Shape, chosen: Configuration) -> Plan:
    """The plan that a configuration makes: as many splits as asked for, or as fill the GPU."""
    if shape.num_splits is not None:
        return Plan(chosen, shape.num_splits)
    programs = shape.batch * shape.kv_heads * -(-shape.rows // chosen.rows)
    facts = device_facts(shape.device)
    splits = configurations.split_count(
        chosen, programs, facts.multiprocessors, shape.slots, shape.batch
    )
    return Plan(chosen, splits)


def plans(shape: Shape) -> list[Plan]:
    """The table's choice, and what else might be faster: other tiles, half and twice the splits."""
    found = configurations.configurations(
        device_facts(shape.device).arch,
        shape.dtype,
        shape.head_dim,
        shape.anchored,
        shape.indirect,
        shape.biased,
        shape.float8,
    )
    usual = plan(shape)
    ways = [usual, *(with_splits(shape, each) for each in found if each != usual.configuration)]
    for splits in (max(1, usual.num_splits // 2), 2 * usual.num_splits):
        ways.append(Plan(usual.configuration, splits))
    return ways


_TUNED: dict[Shape, Plan] = {}


def tree_attention(query: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """See `sparrow_kernels.tree_attention`; the schema's arguments in order."""
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    lse = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
    before, later = rest[:_BEFORE_OUT], rest[_BEFORE_OUT:]
    tree_attention_out(query, *before, out, lse, *later)  # type: ignore[call-arg]
    return out, lse


def tree_attention_out(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ancestors: Tensor,
    prefix_lens: Tensor,
    prefix_starts: Tensor | None,
    anchor_slots: Tensor | None,
    anchor_count: Tensor | None,
    anchor_rank: Tensor | None,
    window: int | None,
    depth: Tensor | None,
    scale: float,
    num_splits: int | None,
    out: Tensor,
    lse: Tensor | None,
    block_table: Tensor | None = None,
    key_bias: Tensor | None = None,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
) -> None:
    """The same into `out` and `lse`, which the kernel writes itself."""
    batch, heads, nodes, head_dim = query.shape
    kv_heads, capacity = key.shape[1], num_slots(key, block_table)
    if query.numel() == 0 or key.numel() == 0 or capacity == 0:
        out.zero_()
        if lse is not None:
            lse.fill_(-math.inf)
        return
    slots = capacity
    if anchor_slots is not None:
        slots = min(capacity, anchor_slots.shape[1] + (window or 0) + 64 * ancestors.shape[2])
    shape = Shape(
        query.device, query.dtype, batch, kv_heads, nodes * (heads // kv_heads), head_dim, slots,
        anchor_slots is not None, num_splits, block_table is not None or key_bias is not None,
        key_bias is not None, key.dtype != query.dtype,
    )  # fmt: skip
    arguments = (
        query, key, value, ancestors, prefix_lens, prefix_starts, anchor_slots, anchor_count,
        anchor_rank, window, depth, scale, out, lse, block_table, key_bias, key_scale, value_scale,
    )  # fmt: skip
    chosen = plan(shape)
    if num_splits is None and tuning.asked_for(query.device):
        if shape not in _TUNED:
            _TUNED[shape] = tuning.fastest(plans(shape), lambda way: attend(*arguments, way))
        chosen = _TUNED[shape]
    attend(*arguments, chosen)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ancestors: Tensor,
    prefix_lens: Tensor,
    prefix_starts: Tensor | None,
    anchor_slots: Tensor | None,
    anchor_count: Tensor | None,
    anchor_rank: Tensor | None,
    window: int | None,
    depth: Tensor | None,
    scale: float,
    out: Tensor,
    lse: Tensor | None,
    block_table: Tensor | None,
    key_bias: Tensor | None,
    key_scale: Tensor | None,
    value_scale: Tensor | None,
    chosen: Plan,
) -> None:
    """Launch the kernel as `chosen`, and the merge if there are several splits."""
    num_splits = chosen.num_splits
    target, target_lse = out, lse
    if num_splits > 1:
        # In the result's own dtype: parts are averages of values and cannot overflow it, and its
        # rounding is that of the result. The log-sum-exps stay in float32.
        shape = (num_splits, *out.shape)
        target = torch.empty(shape, dtype=out.dtype, device=out.device)
        target_lse = torch.empty(shape[:4], dtype=torch.float32, device=out.device)
    key_of_call = (
        chosen, query.device, query.dtype, key.dtype, query.shape, key.shape, ancestors.shape,
        query.stride(), key.stride(), value.stride(), ancestors.stride(), target.stride(),
        None if target_lse is None else target_lse.stride(),
        *(None if each is None else (each.shape, each.stride())
          for each in (prefix_starts, anchor_slots, anchor_rank, depth, block_table, key_bias,
                       key_scale, value_scale)),
        key_bias is not None and key_bias.dtype,
        window, scale, aligned(query, key, value, target),
    )  # fmt: skip
    prepare = partial(
        _arguments, query, key, value, ancestors, anchor_slots, anchor_rank, depth, window, scale,
        target, target_lse, block_table, key_bias, key_scale, value_scale, chosen,
    )  # fmt: skip
    with current(query.device):
        pointers = (
            query, key, value, ancestors, prefix_lens, prefix_starts,
            anchor_slots, anchor_count, anchor_rank, depth, block_table, key_bias,
            key_scale, value_scale, target, target_lse,
        )  # fmt: skip
        launch(tree_kernel, key_of_call, pointers, prepare)
        if num_splits > 1:
            assert target_lse is not None
            tile = configurations.splits_tile(chosen.configuration.rows)
            dependent = device_facts(query.device).dependent_launch
            merge_splits(target, target_lse, out, lse, tile, dependent)


def _repeated(tensor: Tensor | None) -> tuple[int, int]:
    """The strides of its first two dims, 0 where one of size 1 stands for all."""
    if tensor is None:
        return 0, 0
    of_batch, of_heads = (size > 1 for size in tensor.shape[:2])
    return tensor.stride(0) * of_batch, tensor.stride(1) * of_heads


def _arguments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ancestors: Tensor,
    anchor_slots: Tensor | None,
    anchor_rank: Tensor | None,
    depth: Tensor | None,
    window: int | None,
    scale: float,
    target: Tensor,
    target_lse: Tensor | None,
    block_table: Tensor | None,
    key_bias: Tensor | None,
    key_scale: Tensor | None,
    value_scale: Tensor | None,
    chosen: Plan,
) -> tuple[Grid, tuple[Any, ...], dict[str, Any]]:
    """The programs, what follows the pointers, and how the kernel is compiled."""
    configuration, num_splits = chosen
    batch, heads, nodes, head_dim = query.shape
    kv_heads = key.shape[1]
    if max(batch, kv_heads) > _MOST:
        raise ValueError(f"{batch:,} requests, {kv_heads:,} KV heads: a GPU takes {_MOST:,} a call")
    group = heads // kv_heads
    row_tiles = -(-nodes * group // configuration.rows)
    lse_strides = (0, 0, 0) if target_lse is None else target_lse.stride()[-3:]
    pages = (0, 0, 0) if block_table is None else (key.shape[2], key.stride(0), value.stride(0))
    split_strides = (0, 0)
    if num_splits > 1:
        assert target_lse is not None
        split_strides = (target.stride(0), target_lse.stride(0))
    arguments = (
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *ancestors.stride()[:2],
        *(0 if each is None else each.stride(0)
          for each in (anchor_slots, anchor_rank, depth, block_table)),
        *(stride for each in (key_bias, key_scale, value_scale) for stride in _repeated(each)),
        split_strides[0], *target.stride()[-4:-1], split_strides[1], *lse_strides,
        abs(scale) * math.log2(math.e) if scale else 1.0,
        min(window or 0, _LARGEST_WINDOW), nodes, num_slots(key, block_table), ancestors.shape[2],
        0 if anchor_slots is None else anchor_slots.shape[1], key.shape[0], num_splits, row_tiles,
        0, group, (scale > 0) - (scale < 0), head_dim,
        configurations.padded_head_dim(head_dim), configuration.block_m0,
        configuration.block_m1, configuration.block_n,
        configuration.block_t, *pages, device_facts(query.device).dependent_launch,
    )  # fmt: skip
    indirect = block_table is not None or key_bias is not None
    options = configurations.options(configuration, indirect)
    return (row_tiles * num_splits, kv_heads, batch), arguments, options
