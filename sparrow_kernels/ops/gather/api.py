"""The public gathering and commit ops: what a step keeps of the rows that verification wrote."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from sparrow_kernels.ops import native
from sparrow_kernels.ops.accept.arguments import check_drafted, check_row
from sparrow_kernels.ops.errors import Size, check_rows_are_dense, check_tensor, refuse_type
from sparrow_kernels.ops.gather import commit_bound
from sparrow_kernels.ops.gather.arguments import (
    check_apart,
    check_caches,
    check_out,
    check_prefix_lens,
    check_states,
)
from sparrow_kernels.ops.gather.bound import bound_number
from sparrow_kernels.ops.gather.ops import (
    COMMIT_PATH,
    COMMIT_TREE,
    COMPACT_CACHE,
    GATHER_HIDDEN,
    GATHER_HIDDEN_OUT,
)
from sparrow_kernels.ops.types import Acceptance, TreeLayout


def gather_hidden(states: Sequence[Tensor], index: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Gather the same rows of several layers' hidden states, side by side.

    Args:
        states: L tensors `[B, R, H]` of one shape and floating dtype.
        index: `[B, A]` int32 rows; -1 gives zeros.
        out: `[B, A, L * H]` to write to instead of a new tensor, of the states' dtype.

    Returns:
        `[B, A, L * H]`, layer l in columns l * H to (l + 1) * H; `out` if given.

    Raises:
        ValueError: wrong shape; with value checks on also an index out of range (else: zeros), and
            an `out` that shares memory with an input.
        TypeError: wrong dtype or device.

    Source: the multi-layer features of Li et al., EAGLE-3, arXiv 2503.01840.

    Equivalent to:

    >>> states = [torch.randn(2, 7, 4) for _ in range(3)]
    >>> index = torch.tensor([[5, 0, -1], [6, 6, 2]], dtype=torch.int32)
    >>> side_by_side = torch.cat(states, dim=-1)
    >>> expected = side_by_side[torch.arange(2)[:, None], index]
    >>> expected[index == -1] = 0
    >>> torch.equal(gather_hidden(states, index), expected)
    True
    """
    op = "gather_hidden"
    sizes: dict[str, Size] = {}
    check_row(op, "index", index, "B A", torch.int32, sizes)
    layers = check_states(op, states, "B R H", sizes, index.device)
    if out is None:
        return GATHER_HIDDEN(layers, index)
    sizes["L*H"] = len(layers) * sizes["H"]
    check_tensor(op, "out", out, "B A L*H", layers[0].dtype, sizes, index.device)
    check_rows_are_dense(op, "out", out)
    GATHER_HIDDEN_OUT(layers, index, out)
    return out


def compact_cache_(
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    path: Tensor,
    accept_length: Tensor,
    prefix_lens: Tensor,
    *,
    block_table: Tensor | None = None,
) -> None:
    """Move the accepted rows of every layer behind the committed prefix, in place, order kept.

    Row `prefix_len + path[k]` goes to row `prefix_len + k` for k = 0 to accept_length, in keys and
    values. Rows from the new prefix to the end of the old tree are unspecified afterwards, all
    others untouched. `prefix_lens` is not advanced: see `commit_path_`.

    Args:
        keys, values: L caches each, `[B, Hkv, N, D]`, of one shape, strides and dtype; views of
            one slab will do. Or what `bind_caches` made of them.
        path: `[B, S]` int32 nodes, strictly increasing up to accept_length.
        accept_length: `[B]` int32; -1 for an idle request, where nothing moves.
        prefix_lens: `[B]` int32 committed slots, or `[L, B]` where they differ from layer to layer.
        block_table: `[B, pages]` int32. Caches are then `[num_pages, Hkv, page_size, D]` with free
            strides, and slot s of request b is row s % page_size of page
            `block_table[b, s // page_size]`, in every layer.

    Raises:
        ValueError: wrong shape; with value checks on also a path that does not increase, an
            accept_length beyond it, rows outside the cache (else: skipped), a table that is too
            short, out of range or lets two requests write to one page, and a cache that is listed
            twice, shares memory with another or is expanded.
        TypeError: wrong dtype or device.

    Source: the cache update of Cai et al., Medusa, arXiv 2401.10774.

    Equivalent to:

    >>> keys, values = [torch.randn(1, 2, 9, 4)], [torch.randn(1, 2, 9, 4)]
    >>> path = torch.tensor([[0, 2, 4, -1]], dtype=torch.int32)
    >>> accept_length = torch.tensor([2], dtype=torch.int32)
    >>> prefix_lens = torch.tensor([3], dtype=torch.int32)
    >>> expected = keys[0][:, :, [0, 1, 2, 3 + 0, 3 + 2, 3 + 4]]
    >>> compact_cache_(keys, values, path, accept_length, prefix_lens)
    >>> torch.equal(keys[0][:, :, :6], expected)
    True
    """
    op = "compact_cache_"
    found = bound_number(COMPACT_CACHE, path, keys, values)
    if found is not None:
        with suppress(*native.REFUSALS):  # as lists it is refused by name, or served after all
            return commit_bound.compact(found, path, accept_length, prefix_lens, block_table)
    sizes: dict[str, Size] = {}
    check_row(op, "path", path, "B S", torch.int32, sizes)
    device = path.device
    check_row(op, "accept_length", accept_length, "B", torch.int32, sizes, device)
    layers = check_caches(op, keys, values, sizes, device, block_table)
    check_prefix_lens(op, prefix_lens, len(keys), sizes, device, advanced=False)
    COMPACT_CACHE(*layers, path, accept_length, prefix_lens, block_table)
    return None


def commit_path_(
    acceptance: Acceptance,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    states: Sequence[Tensor],
    prefix_lens: Tensor,
    *,
    block_table: Tensor | None = None,
) -> Tensor:
    """Commit an accepted path: compact every layer, gather its hidden rows, advance the prefix.

    Args:
        acceptance: what `accept_tree` or `accept_tree_residual` returned.
        keys, values, block_table: as in `compact_cache_`; caches are changed in place.
        states: hidden states of the verified nodes, layers `[B, T, H]`; [] if nobody needs them.
        prefix_lens: `[B]` or `[L, B]` int32 committed slots; grow by accept_length + 1 in place.

    Returns:
        `[B, S, L * H]` hidden rows of the path, zeros past it. An idle request moves nothing, keeps
        its length and gets zeros.

    Raises:
        ValueError: wrong shape; with value checks on also what `compact_cache_` refuses and a path
            outside the states (else: rows skipped, the length kept within N, hidden rows zero).
        TypeError: wrong dtype or device.

    Source: as `compact_cache_` and `gather_hidden`.

    Equivalent to:

    >>> accepted = Acceptance(torch.tensor([[0, 2, -1]], dtype=torch.int32),
    ...                       torch.tensor([1], dtype=torch.int32), torch.tensor([[5, 6, -1]]))
    >>> keys, values = [torch.randn(1, 2, 9, 4)], [torch.randn(1, 2, 9, 4)]
    >>> states, prefix_lens = [torch.randn(1, 4, 8)], torch.tensor([3], dtype=torch.int32)
    >>> expected_keys = [keys[0].clone()]
    >>> compact_cache_(expected_keys, [values[0].clone()], accepted.path, accepted.accept_length,
    ...                prefix_lens)
    >>> expected = gather_hidden(states, accepted.path)
    >>> torch.equal(commit_path_(accepted, keys, values, states, prefix_lens), expected)
    True
    >>> torch.equal(keys[0], expected_keys[0]), prefix_lens.tolist()
    (True, [5])
    """
    op = "commit_path_"
    found = None
    if isinstance(acceptance, Acceptance):
        found = bound_number(COMMIT_PATH, acceptance.path, keys, values, states)
    if found is not None:
        with suppress(*native.REFUSALS):  # as above
            return commit_bound.path(found, acceptance, states, prefix_lens, block_table)
    sizes: dict[str, Size] = {}
    if not isinstance(acceptance, Acceptance):
        refuse_type(op, "acceptance", "an Acceptance", type(acceptance).__name__)
    path, accept_length, _ = acceptance
    check_row(op, "acceptance.path", path, "B S", torch.int32, sizes)
    device = path.device
    check_row(op, "acceptance.accept_length", accept_length, "B", torch.int32, sizes, device)
    caches = check_caches(op, keys, values, sizes, device, block_table)
    check_prefix_lens(op, prefix_lens, len(keys), sizes, device, advanced=True)
    layers = check_states(op, states, "B T H", sizes, device)
    return COMMIT_PATH(path, accept_length, *caches, layers, prefix_lens, block_table)


def commit_tree_(
    tokens: Tensor,
    layout: TreeLayout,
    target_tokens: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    states: Sequence[Tensor],
    prefix_lens: Tensor,
    max_path: int,
    *,
    block_table: Tensor | None = None,
    out: tuple[Acceptance, Tensor] | None = None,
) -> tuple[Acceptance, Tensor]:
    """Accept and commit in one op: `accept_tree`, then `commit_path_` along its path.

    Args:
        tokens, layout, target_tokens, max_path: as in `accept_tree`.
        keys, values, states, prefix_lens, block_table: as in `commit_path_`.
        out: an `Acceptance` and hidden rows to write to instead of new tensors, of the shapes and
            dtypes that are returned.

    Returns:
        The `Acceptance`, and `[B, S, L * H]` hidden rows of its path; `out` if given.

    Raises:
        ValueError: wrong shape; with value checks on also what `accept_tree` refuses and a tree
            that does not fit in the cache behind `prefix_lens`, caches that `compact_cache_`
            refuses, and an `out` that shares memory with an input.
        TypeError: wrong dtype or device.

    Source: as `accept_tree` and `commit_path_`.

    Equivalent to:

    >>> layout = build_tree(torch.tensor([[-1, 0, 0, 2]], dtype=torch.int32))
    >>> tokens, target_tokens = torch.tensor([[9, 4, 7, 5]]), torch.tensor([[7, 0, 3, 0]])
    >>> keys, values = [torch.randn(1, 2, 9, 4)], [torch.randn(1, 2, 9, 4)]
    >>> states, prefix_lens = [torch.randn(1, 4, 8)], torch.tensor([3], dtype=torch.int32)
    >>> accepted = accept_tree(tokens, layout, target_tokens, max_path=3)
    >>> expected_keys, expected_lens = [keys[0].clone()], prefix_lens.clone()
    >>> expected = commit_path_(accepted, expected_keys, [values[0].clone()], states, expected_lens)
    >>> acceptance, hidden = commit_tree_(
    ...     tokens, layout, target_tokens, keys, values, states, prefix_lens, max_path=3)
    >>> all(torch.equal(a, b) for a, b in zip(acceptance, accepted)), torch.equal(hidden, expected)
    (True, True)
    >>> torch.equal(keys[0], expected_keys[0]), torch.equal(prefix_lens, expected_lens)
    (True, True)
    """
    op = "commit_tree_"
    found = None
    if type(max_path) is int:
        found = bound_number(COMMIT_TREE, tokens, keys, values, states)
    if found is not None:
        with suppress(*native.REFUSALS):  # as above
            return commit_bound.tree(
                found,
                tokens,
                layout,
                target_tokens,
                states,
                prefix_lens,
                max_path,
                block_table,
                out,
            )
    sizes: dict[str, Size] = {}
    links = check_drafted(op, tokens, layout, max_path, sizes)
    device = tokens.device
    check_row(op, "target_tokens", target_tokens, "B T", torch.int64, sizes, device)
    caches = check_caches(op, keys, values, sizes, device, block_table)
    check_prefix_lens(op, prefix_lens, len(keys), sizes, device, advanced=True)
    layers = check_states(op, states, "B T H", sizes, device)
    if out is not None:
        check_out(op, out, max_path, len(layers), layers[0], sizes)
    given = (*links, target_tokens, *caches, layers, prefix_lens, max_path, block_table)
    if out is not None:
        check_apart(COMMIT_TREE, out, (tokens, *given))
    *accepted, hidden = COMMIT_TREE(tokens, *given)
    acceptance = Acceptance(*accepted)
    if out is None:
        return acceptance, hidden
    for own, result in zip((*out[0], out[1]), (*acceptance, hidden), strict=True):
        own.copy_(result)
    return out
