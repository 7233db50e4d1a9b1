"""Block tables: what `ops.pages` refuses, and where it says a slot lies."""

from __future__ import annotations

import pytest
import torch

from sparrow_kernels.ops.pages import (
    check_block_table,
    check_pages,
    gather_pages,
    num_slots,
    paged_slot,
)

CACHE = torch.arange(6.0 * 2 * 4 * 3).reshape(6, 2, 4, 3)  # six pages of four slots
TABLE = torch.tensor([[5, 1, 3], [5, 0, 2]], dtype=torch.int32)  # a first page that both share


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def test_a_slot_lies_where_its_page_says() -> None:
    assert num_slots(CACHE, TABLE) == 12 and num_slots(CACHE, None) == 4
    gathered = gather_pages(CACHE, TABLE)
    for b, pages in enumerate(TABLE.tolist()):
        for slot in range(12):
            page, row = paged_slot(TABLE, CACHE, b, slot)
            assert (page, row) == (pages[slot // 4], slot % 4)
            assert torch.equal(gathered[b, :, slot], CACHE[page, :, row])
    for slot in (-1, 12, 2**31, -(2**31)):
        assert paged_slot(TABLE, CACHE, 0, slot)[0] == -1
    for page in (6, -1, 2**31 - 1, -(2**31)):
        assert paged_slot(int32(page)[None], CACHE, 0, 2) == (-1, 2)
        assert gather_pages(CACHE, int32(page)[None]).shape == (1, 2, 4, 3)


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        (TABLE.long(), TypeError, "block_table must be int32, got int64"),
        (TABLE[0], ValueError, r"block_table must be \[B, pages\], got \[3\]"),
        (TABLE[:1], ValueError, r"block_table must be \[B, pages\] = \[2, pages\], got \[1, 3\]"),
        (TABLE.t().contiguous().t(), ValueError, "block_table must be contiguous in its last dim"),
        ([[0]], TypeError, r"block_table must be a tensor \[B, pages\], got list"),
        (TABLE.to("meta"), TypeError, "block_table must be on cpu, got meta"),
    ],
)
def test_tables_of_the_wrong_kind(table: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="some_op: " + message):
        check_block_table("some_op", table, 2, CACHE)


def test_sound_tables_pass() -> None:
    check_block_table("some_op", TABLE, 2, CACHE)
    check_pages("some_op", TABLE, CACHE, None, int32(12, 12))
    check_pages("some_op", TABLE, CACHE, None, int32(12, 12), writes=int32(4, 4))
    check_pages("some_op", TABLE, CACHE, int32(4, 11), int32(12, 12), writes=int32(5, 12))
    loose = torch.tensor([[-7, 1, 99], [77, 1, 99]], dtype=torch.int32)
    check_pages("some_op", loose, CACHE, int32(4, 5), int32(8, 8))  # what is not used is not read
    check_pages("some_op", loose, CACHE, int32(4, 0), int32(8, 0), writes=int32(6, 0))  # idle
    check_pages("some_op", TABLE[:, :0], CACHE, None, int32(0, 0), writes=int32(0, 0))


@pytest.mark.parametrize(
    ("table", "begins", "ends", "writes", "message"),
    [
        (TABLE, None, (3, 13), None, r"\[B, pages\] with slot 12 of request 1 in it, got 3 pages"),
        (TABLE + 1, None, (1, 1), None, r"a page in 0\.\.5 .* block_table\[0\]\[0\] = 6"),
        (TABLE - 1, (4, 4), (9, 5), None, r"a page in 0\.\.5 .* block_table\[1\]\[1\] = -1"),
        (TABLE, None, (4, 4), (3, 4), r"without a page .* block_table\[0\]\[0\] = 5"),
        (int32(2, 1, 2)[None], None, (9,), (8,), r"without a page .* block_table\[0\]\[2\] = 2"),
    ],
)  # fmt: skip
def test_tables_that_are_refused(table, begins, ends, writes, message) -> None:
    begins = None if begins is None else int32(*begins)
    writes = None if writes is None else int32(*writes)
    with pytest.raises(ValueError, match="some_op: block_table must be " + message):
        check_pages("some_op", table, CACHE, begins, int32(*ends), writes)
