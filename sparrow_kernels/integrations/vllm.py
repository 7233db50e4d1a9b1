"""vLLM's caches, slots and rejection-sampler outputs for our ops, and ours for it. Needs no vLLM.

Its encodings, as release 0.33 has them (`v1/worker/block_table.py`,
`v1/sample/rejection_sampler.py`, `v1/spec_decode/metadata.py`, the attention backends):

- `block_table` `[requests, max_blocks]` int32: our `block_table` as it is, row for row;
- `slot_mapping` `[tokens]` int64: `block * block_size + offset` of each row of a step, -1 for rows
  of padding, rows of request b from `query_start_loc[b]` on;
- a layer's cache: `[blocks, Hkv, block_size, 2 * D]` (packed), and in earlier releases
  `[2, blocks, block_size, Hkv, D]` (stacked: FlashAttention) or
  `[blocks, 2, block_size, Hkv, D]` (paired: FlashInfer, Triton), each with whatever strides;
- drafts are chains: `draft_token_ids` `[tokens]` one request behind the other, without the root,
  `cu_num_draft_tokens` `[B]` int32 where each request *ends*, target tokens likewise and the bonus
  token of a fully accepted chain apart;
- `sampled_token_ids` `[B, max_spec_len + 1]` int32: accepted tokens, then the recovered or the
  bonus token, -1 behind.

>>> sampled_token_ids(Acceptance(
...     torch.tensor([[0, 1, -1]]).int(), torch.tensor([1]).int(), torch.tensor([[7, 9, -1]])), 3)
tensor([[ 7,  9, -1, -1]], dtype=torch.int32)
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels import Acceptance, TreeLayout, build_tree
from sparrow_kernels.integrations.arguments import (
    INTEGERS,
    check,
    check_kind,
    refuse,
    refuse_first,
)
from sparrow_kernels.integrations.ragged import batched, homes

PAD_SLOT_ID = -1
PLACEHOLDER_TOKEN_ID = -1
FORMS = ("stacked", "paired", "packed")


def caches(kv_cache: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """One layer's key and value pages `[blocks, Hkv, block_size, D]`: views, no copies.

    Args:
        kv_cache: "stacked" `[2, blocks, block_size, Hkv, D]`, "paired"
            `[blocks, 2, block_size, Hkv, D]`, or "packed" `[blocks, Hkv, block_size, 2 * D]`;
            contiguous in the last dim.
        form: which; the shape alone does not always tell.

    Raises:
        ValueError: wrong shape, unknown form. TypeError: not a tensor.
    """
    op, shape = "caches", {"stacked": "[2, blocks, block_size, Hkv, D]"}
    shape |= {"paired": "[blocks, 2, block_size, Hkv, D]"}
    shape |= {"packed": "[blocks, Hkv, block_size, 2 * D]"}
    check_kind(op, "kv_cache", kv_cache, None)
    if form not in FORMS:
        refuse(op, "form", " or ".join(FORMS), form)
    got = list(kv_cache.shape)
    if form == "packed":
        if len(got) != 4 or got[3] % 2:
            refuse(op, "kv_cache", f"{form} {shape[form]}", got)
        key, value = kv_cache.chunk(2, -1)
        return key, value
    pair = ("stacked", "paired").index(form)
    if len(got) != 5 or got[pair] != 2:
        refuse(op, "kv_cache", f"{form} {shape[form]}", got)
    key, value = kv_cache.transpose(2, 3).unbind(pair)
    return key, value


def kernel_blocks(block_table: Tensor, blocks_per_block: int) -> Tensor:
    """The table of a cache whose pages are smaller than the blocks that vLLM's manager hands out.

    Args:
        block_table: `[B, blocks]` int32, the manager's.
        blocks_per_block: pages of a block; block b is pages `b * n` up to `(b + 1) * n`.

    Returns:
        `[B, blocks * n]` int32; `block_table` itself where n is 1.

    Raises:
        ValueError: wrong shape. TypeError: wrong dtype.
    """
    op = "kernel_blocks"
    check(op, "block_table", block_table, [-1, -1], torch.int32)
    if blocks_per_block < 1:
        refuse(op, "blocks_per_block", "at least 1", blocks_per_block)
    if blocks_per_block == 1:
        return block_table
    place = torch.arange(blocks_per_block, dtype=torch.int32, device=block_table.device)
    return (block_table[..., None] * blocks_per_block + place).flatten(1)


def slot_mapping(
    block_table: Tensor,
    query_start_loc: Tensor,
    prefix_lens: Tensor,
    block_size: int,
    num_tokens: int,
) -> Tensor:
    """The slots that a step writes, as vLLM's cache writers take them.

    Row j of request b goes to slot `prefix_len + j`, whatever its position: nodes of a tree have
    positions of their own, and slots one behind the other.

    Args:
        block_table: `[B, blocks]` int32.
        query_start_loc: `[B + 1]` int32, where the rows of each request begin.
        prefix_lens: `[B]` int32 committed slots.
        block_size: slots of a block.
        num_tokens: rows of the result, those of padding included.

    Returns:
        `[num_tokens]` int64: `block * block_size + offset`, -1 from the last request's rows on.

    Raises:
        ValueError: wrong shape; where values are checked also a slot beyond the table (else: -1).
        TypeError: wrong dtype or device.
    """
    op, device = "slot_mapping", block_table.device
    check(op, "block_table", block_table, [-1, -1], torch.int32)
    batch, blocks = block_table.shape
    check(op, "query_start_loc", query_start_loc, [batch + 1], torch.int32, device)
    check(op, "prefix_lens", prefix_lens, [batch], torch.int32, device)
    if block_size < 1:
        refuse(op, "block_size", "at least 1", block_size)
    most = blocks * block_size
    end = prefix_lens.long() + query_start_loc.diff()
    must_be = f"0 up to the {most} slots of the table less the request's rows"
    refuse_first(op, "prefix_lens", must_be, prefix_lens, (prefix_lens < 0) | (end > most))
    if batch == 0 or blocks == 0:
        return torch.full((num_tokens,), PAD_SLOT_ID, device=device)
    request, place = homes(query_start_loc, num_tokens)
    is_row = (request < batch) & (place >= 0)
    request = request.clamp(max=batch - 1)
    slot = prefix_lens.long()[request] + place
    is_row &= (slot >= 0) & (slot < most)
    slot = slot.clamp(0, most - 1)
    block = block_table[request, torch.div(slot, block_size, rounding_mode="floor")].long()
    return torch.where(is_row, block * block_size + slot % block_size, PAD_SLOT_ID)


def chains(
    draft_token_ids: Tensor, cu_num_draft_tokens: Tensor, last_tokens: Tensor, max_spec_len: int
) -> tuple[Tensor, TreeLayout]:
    """vLLM's drafts as trees: chains below the last committed token.

    Args:
        draft_token_ids: `[tokens]` int32 or int64, one request behind the other.
        cu_num_draft_tokens: `[B]` int32, where the tokens of each request end.
        last_tokens: `[B]` int32 or int64, the last committed token of each request: the root.
        max_spec_len: the most draft tokens of a request; T is one more.

    Returns:
        `tokens` `[B, T]` int64, -1 in padding, and the layout.

    Raises:
        ValueError: wrong shape; where values are checked also counts out of range. TypeError: wrong
            dtype or device.
    """
    op = "chains"
    check(op, "draft_token_ids", draft_token_ids, [-1], INTEGERS)
    device = draft_token_ids.device
    begins = _begins(op, cu_num_draft_tokens, draft_token_ids, max_spec_len)
    batch = begins.shape[0] - 1
    check(op, "last_tokens", last_tokens, [batch], INTEGERS, device)
    drafted = batched(draft_token_ids.long(), begins, max_spec_len, PLACEHOLDER_TOKEN_ID)
    tokens = torch.cat((last_tokens.long()[:, None], drafted), 1)
    parent = torch.arange(-1, max_spec_len, dtype=torch.int32, device=device)
    count = begins.diff().clamp(0, max_spec_len)
    return tokens, build_tree(parent.repeat(batch, 1), count + 1)


def chain_targets(
    target_token_ids: Tensor,
    cu_num_draft_tokens: Tensor,
    bonus_token_ids: Tensor,
    max_spec_len: int,
) -> Tensor:
    """vLLM's target tokens as `accept_tree` takes them, for the trees of `chains`.

    Args:
        target_token_ids: `[tokens]` int32 or int64: the target's token at each draft token's
            place (the argmax of its rows, or one exact sample of each).
        cu_num_draft_tokens: `[B]` int32, where the tokens of each request end.
        bonus_token_ids: `[B]` or `[B, 1]` int32 or int64: its token behind the whole chain.
        max_spec_len: the most draft tokens of a request.

    Returns:
        `[B, max_spec_len + 1]` int64: row j holds the target's token after node j; -1 in padding.

    Raises:
        ValueError: wrong shape; where values are checked also counts out of range. TypeError: wrong
            dtype or device.
    """
    op = "chain_targets"
    check(op, "target_token_ids", target_token_ids, [-1], INTEGERS)
    begins = _begins(op, cu_num_draft_tokens, target_token_ids, max_spec_len)
    batch = begins.shape[0] - 1
    check_kind(op, "bonus_token_ids", bonus_token_ids, INTEGERS, begins.device)
    if list(bonus_token_ids.shape) not in ([batch], [batch, 1]):
        refuse(op, "bonus_token_ids", f"[{batch}] or [{batch}, 1]", list(bonus_token_ids.shape))
    targets = batched(target_token_ids.long(), begins, max_spec_len + 1, PLACEHOLDER_TOKEN_ID)
    last = begins.diff().long()[:, None].clamp(0, max_spec_len)
    return targets.scatter(1, last, bonus_token_ids.long().view(batch, 1))


def _begins(op: str, ends: Tensor, tokens: Tensor, most: int) -> Tensor:
    check(op, "cu_num_draft_tokens", ends, [-1], torch.int32, tokens.device)
    if most < 0:
        refuse(op, "max_spec_len", "not negative", most)
    begins = torch.nn.functional.pad(ends, (1, 0))
    bad = (begins.diff() < 0) | (begins.diff() > most) | (ends > tokens.shape[0])
    must_be = f"ascending by at most max_spec_len = {most}, up to {tokens.shape[0]}"
    refuse_first(op, "cu_num_draft_tokens", must_be, ends, bad)
    return begins


def sampled_token_ids(acceptance: Acceptance, max_spec_len: int) -> Tensor:
    """What we accepted, as vLLM's rejection sampler returns it.

    Args:
        acceptance: of chains or of trees: which nodes were accepted is not told.
        max_spec_len: the most draft tokens of a request, at least those of a path.

    Returns:
        `[B, max_spec_len + 1]` int32: accepted tokens and the bonus, -1 behind; of an idle request
        -1 alone.

    Raises:
        ValueError: wrong shape, `max_spec_len` below the path's. TypeError: wrong dtype.
    """
    op, tokens = "sampled_token_ids", acceptance.tokens
    check(op, "acceptance.tokens", tokens, [-1, -1], torch.int64)
    missing = max_spec_len + 1 - tokens.shape[1]
    if missing < 0:
        must_be = f"at least {tokens.shape[1] - 1}, the draft tokens of the longest path"
        refuse(op, "max_spec_len", must_be, max_spec_len)
    return torch.nn.functional.pad(tokens, (0, missing), value=PLACEHOLDER_TOKEN_ID).int()


def acceptance(sampled_token_ids: Tensor) -> Acceptance:
    """What vLLM's rejection sampler accepted of the trees of `chains`, for `commit_path_`.

    Args:
        sampled_token_ids: `[B, max_spec_len + 1]` int32 or int64, -1 behind the emitted tokens.

    Returns:
        `path` `[B, S]` int32 `0, 1, ...`, `accept_length` `[B]` int32, one less than the emitted
        tokens, and `tokens` `[B, S]` int64; S = max_spec_len + 1. Without a token: an idle request.

    Raises:
        ValueError: wrong shape; where values are checked also a token behind a -1. TypeError: wrong
            dtype.
    """
    op = "acceptance"
    check(op, "sampled_token_ids", sampled_token_ids, [-1, -1], INTEGERS)
    is_emitted = sampled_token_ids >= 0
    bad = is_emitted[:, 1:] & ~is_emitted[:, :-1]
    refuse_first(op, "sampled_token_ids", "-1 behind a -1", sampled_token_ids[:, 1:], bad)
    is_emitted = is_emitted.int().cumprod(-1).bool()  # up to the first -1
    place = torch.arange(sampled_token_ids.shape[1], dtype=torch.int32, device=is_emitted.device)
    return Acceptance(
        torch.where(is_emitted, place, -1),
        is_emitted.sum(-1, dtype=torch.int32) - 1,
        torch.where(is_emitted, sampled_token_ids.long(), -1),
    )
