"""What the README promises by name exists."""

from __future__ import annotations

import re
from pathlib import Path

from public_names import NOT_OPS

import sparrow_kernels

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def test_every_op_has_a_row_in_the_table() -> None:
    rows = "\n".join(line for line in README.splitlines() if line.startswith("| `"))
    named = set(re.findall(r"`(\w+)\(", rows))
    assert set(sparrow_kernels.__all__) - NOT_OPS <= named
    assert named - {"scaled_dot_product_attention", "cat"} <= set(sparrow_kernels.__all__) | {
        "topk", "unpack_ancestors",
    }  # fmt: skip


def test_nothing_was_left_to_fill_in() -> None:
    assert not re.findall(r"@[A-Z]+@", README)
