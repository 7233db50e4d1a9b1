"""transformers' own caches for our ops: their tensors, their lengths, and a commit in them.

Takes a `StaticCache` or a `DynamicCache` (transformers 5.17 and later) by what its layers have, and
imports no transformers. Layers keep `keys` and `values` `[B, Hkv, N, D]`; a static one counts its
committed slots in `cumulative_length`, a dynamic one by the size of its tensors. The ops write to
those tensors in place; `set_length_` then tells the cache how much of it is committed:

    keys, values = caches(cache)                      # after a forward of the tree's rows
    lens = prefix_lens(cache, batch, num_rows=nodes)  # slots before them
    accepted, _ = commit_tree_(tokens, layout, targets, keys, values, [], lens, max_path)
    set_length_(cache, lens)

Layers that do not hold every slot where it was written are refused by name: a sliding window's,
quantised ones, and those of a cache that is offloaded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.integrations.arguments import (
    check,
    check_kind,
    refuse,
    refuse_first,
    refuse_type,
)


def caches(cache: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Every layer's keys and values, the cache's own tensors: no copies.

    Args:
        cache: a `StaticCache` or `DynamicCache` that has been written to once.

    Returns:
        Two lists of `[B, Hkv, N, D]`. N is the capacity of a static cache, and the slots written
        so far of a dynamic one, whose `update` replaces its tensors: ask again after each.

    Raises:
        ValueError: a layer that is empty, slides, is quantised or offloaded. TypeError: no cache
            of layers with `keys` and `values`.
    """
    layers = _layers("caches", cache)
    return [layer.keys for layer in layers], [layer.values for layer in layers]


def prefix_lens(cache: Any, batch: int, num_rows: int = 0) -> Tensor:
    """The committed slots of each request, as our ops take them.

    transformers counts once for all requests; where a prompt is padded on the left, the padding
    counts, and `prefix_starts` of the ops leaves it out.

    Args:
        cache: as `caches` takes it.
        batch: B.
        num_rows: rows of the step that the cache counts already, as after a forward of a tree; the
            slots of those are not committed.

    Returns:
        `[B]` int32, a tensor of its own: a commit advances it, and not the cache.

    Raises:
        ValueError: as `caches`; more rows than slots (of a static cache: where values are checked).
        TypeError: as `caches`.
    """
    op = "prefix_lens"
    layer = _layers(op, cache)[0]
    counted = getattr(layer, "cumulative_length", None)
    if not isinstance(counted, Tensor):
        slots = layer.keys.shape[-2]
        if num_rows > slots:
            refuse(op, "num_rows", f"at most the {slots} slots of the cache", num_rows)
        device = layer.keys.device
        return torch.full((batch,), slots - num_rows, dtype=torch.int32, device=device)
    lens = (counted - num_rows).to(torch.int32).repeat(batch)
    refuse_first(op, "num_rows", "at most the cache's slots", lens, lens < 0)
    return lens


def set_length_(cache: Any, prefix_lens: Tensor) -> None:
    """Tell the cache how many slots are committed, in place; what lies behind is dropped.

    A static cache's own counter is set, and nobody waits. A dynamic cache is cropped, as
    `cache.crop` does it, for which the length is read from the device.

    Args:
        cache: as `caches` takes it.
        prefix_lens: `[B]` int32, as a commit left them. transformers has one length for all
            requests, so they must agree; decode one by one, or keep caches of your own, otherwise.

    Raises:
        ValueError: as `caches`; no request; where values are checked (of a dynamic cache: always)
            also lengths that differ or exceed the cache. TypeError: as `caches`; wrong dtype.
    """
    op = "set_length_"
    layers = _layers(op, cache)
    check_kind(op, "prefix_lens", prefix_lens, torch.int32)
    check(op, "prefix_lens", prefix_lens, [layers[0].keys.shape[0]], torch.int32)
    if prefix_lens.shape[0] < 1:
        refuse(op, "prefix_lens", "[B] with B >= 1", list(prefix_lens.shape))
    first, slots = prefix_lens[:1], layers[0].keys.shape[-2]
    must_be = f"one length for all requests, at most {slots}"
    bad = (prefix_lens != first) | (prefix_lens < 0) | (prefix_lens > slots)
    found = (getattr(layer, "cumulative_length", None) for layer in layers)
    counters = [counter for counter in found if isinstance(counter, Tensor)]
    if len(counters) == len(layers):
        refuse_first(op, "prefix_lens", must_be, prefix_lens, bad)
        for counter in counters:
            counter.copy_(first[0])
        return
    lengths = prefix_lens.tolist()
    if len(set(lengths)) > 1 or not 0 <= lengths[0] <= slots:
        refuse(op, "prefix_lens", must_be, lengths)
    for layer in layers:
        if lengths[0] < slots:
            layer.crop(lengths[0] - slots)


def _layers(op: str, cache: Any) -> list[Any]:
    layers = getattr(cache, "layers", None)
    if not isinstance(layers, list) or not all(hasattr(each, "keys") for each in layers):
        hint = "an encoder-decoder cache has two of them"
        must_be = "a cache of layers with keys and values"
        refuse_type(op, "cache", must_be, type(cache).__name__, hint)
    if not layers:
        refuse(op, "cache", "written to before", f"a {type(cache).__name__} without layers")
    if getattr(cache, "offloading", False):
        refuse(op, "cache", "on its device", "an offloaded one, whose layers come and go")
    for number, layer in enumerate(layers):
        name = f"layer {number}, a {type(layer).__name__}"
        if getattr(layer, "is_sliding", False):
            refuse(
                op, "cache", "of layers that keep every slot", name, "a sliding window drops them"
            )
        if hasattr(layer, "_quantized_keys"):
            refuse(op, "cache", "of layers that keep what is written", name)
        if not isinstance(layer.keys, Tensor) or layer.keys.dim() != 4:
            refuse(op, "cache", "written to in every layer, [B, Hkv, N, D]", name, "run the prompt")
    return layers
