"""What a step accepted: TensorRT-LLM's outputs, by paths and by links, and an `Acceptance`."""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels import Acceptance
from sparrow_kernels.integrations.arguments import INTEGERS, check, check_kind, refuse_first
from sparrow_kernels.integrations.ragged import in_a_row, offsets


def acceptance_by_paths(
    paths: Tensor,
    best_path_ids: Tensor,
    accepted_lengths: Tensor,
    output_ids: Tensor,
    sequence_lengths: Tensor,
) -> Acceptance:
    """The outputs of `acceptDraftTokensByIdsWithPaths`, for `commit_path_` and `compact_cache_`.

    Args:
        paths: `[B, P, S]` int32.
        best_path_ids: `[B]` int32, the row of `paths` that was taken.
        accepted_lengths: `[B]` int32 emitted tokens: accepted draft tokens and the bonus, 0 to S.
        output_ids: `[B, max_seq_len]` int32, the sequences with the emitted tokens.
        sequence_lengths: `[B]` int32, as the step left them, `accepted_lengths` included.

    Returns:
        `path` `[B, S]` int32 and `tokens` `[B, S]` int64, -1 behind the end, and `accept_length`
        `[B]` int32, one less than theirs: the bonus is not counted. 0 tokens are an idle request.

    Raises:
        ValueError: wrong shape; where values are checked also a length, row or sequence length out
            of range. TypeError: wrong dtype or device.
    """
    op, device = "acceptance_by_paths", paths.device
    check(op, "paths", paths, [-1, -1, -1], torch.int32)
    batch, rows, most = paths.shape
    check(op, "best_path_ids", best_path_ids, [batch], torch.int32, device)
    check(op, "accepted_lengths", accepted_lengths, [batch], torch.int32, device)
    check(op, "output_ids", output_ids, [batch, -1], INTEGERS, device)
    check(op, "sequence_lengths", sequence_lengths, [batch], torch.int32, device)
    count, best = accepted_lengths, best_path_ids
    bad = (count < 0) | (count > most)
    refuse_first(op, "accepted_lengths", f"0 to max_path = {most}", count, bad)
    bad = (best < 0) | (best >= rows)
    refuse_first(op, "best_path_ids", f"a row of paths, of which there are {rows}", best, bad)
    longest = output_ids.shape[1]
    bad = (sequence_lengths < count) | (sequence_lengths > longest)
    must_be = f"accepted_lengths to max_seq_len = {longest}"
    refuse_first(op, "sequence_lengths", must_be, sequence_lengths, bad)
    count = count.clamp(0, most)
    place = torch.arange(most, device=device)
    is_emitted = place < count[:, None]
    if rows == 0 or longest == 0:
        blank = paths.new_full((batch, most), -1)
        return Acceptance(blank, paths.new_full((batch,), -1), blank.long())
    row = best.long().clamp(0, rows - 1)[:, None, None].expand(-1, 1, most)
    path = paths.gather(1, row)[:, 0]
    begin = (sequence_lengths - count).long()[:, None] + place
    tokens = output_ids.long().gather(1, begin.clamp(0, longest - 1))
    return _acceptance(path, count - 1, tokens, is_emitted)


def acceptance_by_links(
    accept_index: Tensor, accept_token_num: Tensor, accept_token: Tensor
) -> Acceptance:
    """The outputs of `verify_dynamic_tree_greedy` and its kin, for `commit_path_`.

    Args:
        accept_index: `[B, S]` int64 or int32 nodes, the root first.
        accept_token_num: `[B]` int64 or int32 accepted draft tokens, without root and bonus.
        accept_token: `[B, S]` int64 or int32: accepted draft tokens, then the bonus.

    Returns:
        The same, -1 behind the end whatever was there. None of theirs is idle.

    Raises:
        ValueError: wrong shape; where values are checked also a count out of range. TypeError:
            wrong dtype or device.
    """
    op, device = "acceptance_by_links", accept_index.device
    check(op, "accept_index", accept_index, [-1, -1], INTEGERS)
    batch, most = accept_index.shape
    check(op, "accept_token_num", accept_token_num, [batch], INTEGERS, device)
    check(op, "accept_token", accept_token, [batch, most], INTEGERS, device)
    bad = (accept_token_num < 0) | (accept_token_num >= most)
    refuse_first(op, "accept_token_num", f"0 to S - 1 = {most - 1}", accept_token_num, bad)
    count = accept_token_num.clamp(0, most - 1)
    is_emitted = torch.arange(most, device=device) <= count[:, None]
    return _acceptance(accept_index, count, accept_token, is_emitted)


def _acceptance(path: Tensor, length: Tensor, tokens: Tensor, is_emitted: Tensor) -> Acceptance:
    return Acceptance(
        torch.where(is_emitted, path.int(), -1),
        length.int(),
        torch.where(is_emitted, tokens.long(), -1),
    )


def accept_outputs(acceptance: Acceptance) -> tuple[Tensor, Tensor, Tensor]:
    """An `Acceptance` as `verify_dynamic_tree_greedy` returns it.

    Returns:
        `accept_index` `[B, S]`, `accept_token_num` `[B]` and `accept_token` `[B, S]`, int64, 0
        behind the end, as in its buffers of zeros. An idle request has 0 accepted tokens, which
        its caller tells from a request that emits its bonus alone by knowing that it is idle.
    """
    path, length, tokens = _checked("accept_outputs", acceptance)
    return path.long().clamp(min=0), length.long().clamp(min=0), tokens.clamp(min=0)


def best_paths(acceptance: Acceptance, paths: Tensor) -> tuple[Tensor, Tensor]:
    """An `Acceptance` as `acceptDraftTokensByIdsWithPaths` returns it.

    Args:
        acceptance: `path` `[B, S']` within the trees of `paths`.
        paths: `[B, P, S]` int32, S >= the longest accepted path.

    Returns:
        `best_path_ids` `[B]` int32, the first row that begins with the accepted path, and
        `accepted_lengths` `[B]` int32, emitted tokens, the bonus included; both 0 where idle.

    Raises:
        ValueError: wrong shape; where values are checked also a path that no row begins with.
        TypeError: wrong dtype or device.
    """
    op = "best_paths"
    path, length, _ = _checked(op, acceptance)
    check(op, "paths", paths, [path.shape[0], -1, -1], torch.int32, path.device)
    width = paths.shape[2]
    missing = max(width - path.shape[1], 0)
    mine = torch.nn.functional.pad(path, (0, missing), value=-1)
    theirs = torch.nn.functional.pad(paths, (0, mine.shape[1] - width), value=-1)
    fits = ((theirs == mine[:, None]) | (mine[:, None] < 0)).all(-1)
    found = fits.any(-1)
    must_be = "one that a row of paths begins with"
    refuse_first(op, "acceptance.path", must_be, path[:, :1], ((length >= 0) & ~found)[:, None])
    best = fits.int().argmax(-1) if paths.shape[1] > 0 else length.long() * 0
    return torch.where(length >= 0, best, 0).int(), length + 1


def packed_paths(acceptance: Acceptance) -> tuple[Tensor, Tensor]:
    """An `Acceptance` as `update_kv_cache_draft_token_location` takes it, to move the cache's rows.

    Returns:
        `accepted_lengths_cum_sum` `[B + 1]` int32, where each request's draft tokens begin, and
        `paths_offsets` `[B * (S - 1)]` int32: those that were accepted, one behind the other, by
        number of draft token, which is one less than that of its node: the root's row lies where it
        belongs. 0 behind the last.
    """
    path, length, _ = _checked("packed_paths", acceptance)
    batch, most = path.shape
    begins = offsets(length.clamp(min=0)).int()
    room = batch * max(most - 1, 0)
    return begins, in_a_row((path[:, 1:] - 1).clamp(min=0), begins, room, 0)


def _checked(op: str, acceptance: Acceptance) -> tuple[Tensor, Tensor, Tensor]:
    path, length, tokens = acceptance
    check(op, "acceptance.path", path, [-1, -1], torch.int32)
    check_kind(op, "acceptance.accept_length", length, torch.int32, path.device)
    check(op, "acceptance.accept_length", length, [path.shape[0]], torch.int32)
    check(op, "acceptance.tokens", tokens, list(path.shape), torch.int64, path.device)
    return path, length, tokens
