"""Tree attention on a CPU from PyTorch's own kernels: flash without a mask, a small dense tree.

The slots that every row sees go through PyTorch's flash kernel as they lie in the cache; the few
that only some rows see are scored densely and folded in by log-sum-exp. A row that decodes alone,
or any rows that see the same, need one flash call over prefix and tree together.

Tried and lost: a copy of the KV heads or one call per query head (packing the G heads of a KV head
as rows of it is up to 5 times faster, at 28 heads over 4); cutting the prefix in 2, 4 or 8 for more
threads (the KV heads already fill two cores); a masked flash call for the tree, merged afterwards.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.ops.attention import torch_biased
from sparrow_kernels.ops.attention.parts import Part, attend_all, attend_biased, attend_folded
from sparrow_kernels.ops.attention.seen import AnchoredPart, TreePart, anchored_part, tree_part
from sparrow_kernels.ops.pages import gather_pages

# Up to this many scores for each KV head, one dense softmax beats flash and fold.
_DENSE_SCORES = 8192


def tree_attention(
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
    block_table: Tensor | None = None,
    key_bias: Tensor | None = None,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `sparrow_kernels.tree_attention`. `num_splits` means nothing here. Pages are copied
    together: PyTorch's kernels take no table, and no float8 either, so that there are no scales."""
    batch, heads, rows, _ = query.shape
    if query.numel() == 0 or key.numel() == 0:
        empty_lse = query.new_full((batch, heads, rows), -torch.inf, dtype=torch.float32)
        return query.new_zeros(query.shape), empty_lse
    is_plain = block_table is None and key_bias is None and anchor_slots is None
    if rows == 1 and ancestors.numel() == 1 and is_plain and prefix_starts is None:
        alone = _row_alone(query, key, value, int(ancestors), int(prefix_lens), scale)
        if alone is not None:
            return alone
    words = tuple(ancestors.flatten().tolist())
    lengths = prefix_lens.tolist()
    starts = [0] * batch if prefix_starts is None else prefix_starts.tolist()
    if batch == 1 and is_plain:
        return _request(query, key, value, words, starts[0], lengths[0], scale)
    out = query.new_empty(query.shape)
    lse = query.new_empty((batch, heads, rows), dtype=torch.float32)
    width = len(words) // batch
    for b in range(batch):
        anchored = None
        if anchor_slots is not None:
            anchored = (anchor_slots[b], anchor_rank[b], window, depth[b])  # type: ignore[index]
        own = slice(b, b + 1)
        if block_table is None:
            caches = (key[own], value[own])
        else:
            reach = max(lengths[b], 0) + 64 * ancestors.shape[2]
            table = block_table[own, : -(-reach // key.shape[2])]
            caches = (gather_pages(key, table), gather_pages(value, table))
        out[own], lse[own] = _request(
            query[own],
            *caches,
            words[b * width : (b + 1) * width],
            starts[b],
            lengths[b],
            scale,
            anchored,  # type: ignore[arg-type]
            None if key_bias is None else key_bias[b if key_bias.shape[0] > 1 else 0],
        )
    return out, lse


def _row_alone(
    query: Tensor, key: Tensor, value: Tensor, word: int, length: int, scale: float
) -> Part | None:
    """One row that sees the prefix and the tree slots right behind it, as in plain decoding.

    None if it sees anything else. A case of `_request` with the least around the flash call: in a
    short context that is what a token costs.
    """
    num_slots = word.bit_length()
    seen = length + num_slots
    if word < 0 or word & (word + 1) or length < 0 or not 0 < seen <= key.shape[2]:
        return None
    heads, kv_heads, head_dim = query.shape[1], key.shape[1], query.shape[3]
    packed = query.reshape(1, kv_heads, heads // kv_heads, head_dim)
    out, lse = attend_all(packed, key.narrow(2, 0, seen), value.narrow(2, 0, seen), scale)
    return out.reshape(query.shape), lse.reshape(1, heads, 1).float()


def _request(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    words: tuple[int, ...],
    start: int,
    length: int,
    scale: float,
    anchored: tuple[Tensor, Tensor, int, Tensor] | None = None,
    key_bias: Tensor | None = None,
) -> Part:
    """One request: query `[1, Hq, T, D]`, key and value `[1, Hkv, N, D]`, a bias `[Hkv | 1, N]`."""
    _, heads, rows, head_dim = query.shape
    _, kv_heads, slots, _ = key.shape
    group = heads // kv_heads
    length = min(max(length, 0), slots)
    start = min(max(start, 0), length)
    room = min(slots - length, 64 * (len(words) // rows))
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    tree = tree_part(words, rows, room, group, dtype)
    packed = query.reshape(1, kv_heads, group * rows, head_dim)
    part = None
    if anchored is not None:
        part = anchored_part(*anchored, start, length, group, dtype)
    if key_bias is not None:
        out, lse = torch_biased.attend(
            packed, key, value, key_bias, tree, part, start, length, scale
        )
    elif part is not None:
        out, lse = _attend_anchored(packed, key, value, tree, part, length, scale)
    else:
        out, lse = _attend_prefix(packed, key, value, tree, start, length, scale)
    # Rows of one call never share memory with the cache, so the reshapes may alias or copy.
    return out.reshape(1, heads, rows, head_dim), lse.reshape(1, heads, rows).float()


def _attend_prefix(
    query: Tensor, key: Tensor, value: Tensor, tree: TreePart, start: int, length: int, scale: float
) -> Part:
    """All of `[start, length)` and the tree."""
    bias, num_slots = tree.bias, len(tree.slots)
    if bias is None:
        seen = length + num_slots - start
        return attend_all(query, key.narrow(2, start, seen), value.narrow(2, start, seen), scale)
    prefix = length - start
    if tree.consecutive and (
        prefix == 0 or (prefix * query.shape[2] <= _DENSE_SCORES and query.dtype == bias.dtype)
    ):
        seen = prefix + num_slots
        keys, values = key[0].narrow(1, start, seen), value[0].narrow(1, start, seen)
        return attend_biased(query[0], keys, values, bias, scale)
    keys, values = _tree_rows(key[0], tree, length), _tree_rows(value[0], tree, length)
    if prefix == 0:
        return attend_biased(query[0], keys, values, bias, scale)
    out, lse = attend_all(
        query, key.narrow(2, start, prefix), value.narrow(2, start, prefix), scale
    )
    return attend_folded(query[0], keys, values, bias, (out[0], lse[0]), scale)


def _attend_anchored(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tree: TreePart,
    part: AnchoredPart,
    length: int,
    scale: float,
) -> Part:
    """The anchors, the window, the window's edge and the tree; only what is seen is gathered."""
    end = length + (len(tree.slots) if tree.bias is None else 0)
    caches = (key, value)
    keys, values = (
        torch.cat((rows.index_select(2, part.anchors), rows[:, :, part.window_start : end]), 2)
        for rows in caches
    )
    edge_keys, edge_values = (rows[0].index_select(1, part.edge) for rows in caches)
    bias = part.edge_bias
    if tree.bias is not None:
        edge_keys = torch.cat((edge_keys, _tree_rows(key[0], tree, length)), 1)
        edge_values = torch.cat((edge_values, _tree_rows(value[0], tree, length)), 1)
        bias = torch.cat((bias, tree.bias), 1)
    if keys.shape[2] == 0 and bias.shape[1] > 0:
        return attend_biased(query[0], edge_keys, edge_values, bias, scale)
    out, lse = attend_all(query, keys, values, scale)
    if bias.shape[1] == 0:
        return out, lse
    return attend_folded(query[0], edge_keys, edge_values, bias, (out[0], lse[0]), scale)


def _tree_rows(rows: Tensor, tree: TreePart, length: int) -> Tensor:
    """The cache `rows` `[Hkv, N, D]` of the tree slots that some row sees: `[Hkv, n, D]`."""
    if tree.consecutive:
        return rows.narrow(1, length, len(tree.slots))
    return rows.index_select(1, torch.tensor(tree.slots, dtype=torch.int64) + length)
