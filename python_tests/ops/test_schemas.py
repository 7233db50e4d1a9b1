"""The schemas that compiled graphs hold, all of them: a new argument goes behind the old, with a
default, and into schemas.txt; so does a new op."""

from __future__ import annotations

from pathlib import Path

import sparrow_kernels.ops.accept
import sparrow_kernels.ops.attention
import sparrow_kernels.ops.gather
import sparrow_kernels.ops.tree  # noqa: F401  (importing a family defines its ops)
from sparrow_kernels.ops import registry

FROZEN = Path(__file__).with_name("schemas.txt")


def test_the_schema_of_every_op_stays() -> None:
    defined = registry.defined_ops().values()
    found = sorted(str(op.call._schema).removeprefix("sparrow::") for op in defined)
    assert found == sorted(FROZEN.read_text().splitlines())
