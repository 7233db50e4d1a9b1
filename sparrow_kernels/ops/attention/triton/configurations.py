"""The tile sizes of the tree kernel: a small table, checked for spills by compiling ahead of time.

One row of the table serves an architecture, a width of dtype and a padded head dim. 9.0 has its
own; every other GPU from 8.0 on takes that of 8.0, whose tiles fit 99 KB of shared memory. Imports
no triton.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Configuration(NamedTuple):
    """How one program of the tree kernel is cut."""

    block_m0: int
    """Rows of the first subtile, a power of 2 from 16."""
    block_m1: int
    """Rows of the second, 0 for none."""
    block_n: int
    """Slots of an unmasked tile."""
    block_t: int
    """Slots of a masked tile of the tree, at most 64."""
    num_warps: int
    num_stages: int
    """Tiles of K and V in flight."""
    resident: int
    """Programs that fit on a multiprocessor together."""

    @property
    def rows(self) -> int:
        """Rows a program holds."""
        return self.block_m0 + self.block_m1


INTERPRETER = 0
"""The architecture of a CPU: under the interpreter a tile costs the same whatever its size."""

_C = Configuration
# (architecture, bytes an element, padded head dim) -> by rows, ascending. The second is what runs
# where num_splits is given: it must not depend on the number of rows.
_TABLE: dict[tuple[int, int, int], tuple[Configuration, ...]] = {
    (90, 2, 64): (
        _C(16, 0, 64, 32, 4, 4, 4),
        _C(64, 0, 128, 32, 4, 3, 2),
        _C(128, 0, 64, 32, 8, 3, 2),
        _C(128, 64, 64, 32, 8, 3, 1),
        _C(128, 128, 64, 32, 8, 3, 1),
    ),
    (90, 2, 128): (
        _C(16, 0, 64, 32, 4, 4, 2),
        _C(64, 0, 64, 32, 4, 3, 1),
        _C(128, 0, 64, 32, 8, 3, 1),
        _C(128, 64, 64, 16, 8, 3, 1),
        _C(128, 128, 64, 16, 8, 2, 1),
    ),
    (90, 2, 256): (
        _C(16, 0, 64, 32, 4, 2, 2),
        _C(64, 0, 32, 32, 8, 2, 2),
        _C(128, 0, 64, 16, 8, 2, 1),
    ),
    (80, 2, 64): (
        _C(16, 0, 64, 32, 4, 4, 4),
        _C(64, 0, 128, 32, 4, 3, 2),
        _C(128, 0, 64, 32, 8, 3, 1),
        _C(128, 128, 64, 32, 8, 2, 1),
    ),
    (80, 2, 128): (
        _C(16, 0, 64, 32, 4, 3, 2),
        _C(64, 0, 64, 32, 4, 3, 1),
        _C(128, 0, 64, 32, 8, 3, 1),
    ),
    (80, 2, 256): (
        _C(16, 0, 64, 32, 4, 2, 2),
        _C(64, 0, 32, 32, 8, 2, 2),
    ),
    # Without tensor cores (float32 products are IEEE) small tiles: larger ones spill.
    (90, 4, 64): (_C(16, 0, 32, 16, 4, 2, 4), _C(32, 0, 32, 16, 4, 2, 4)),
    (90, 4, 128): (_C(16, 0, 16, 16, 4, 2, 4), _C(16, 0, 16, 16, 4, 2, 4)),
    (90, 4, 256): (_C(16, 0, 16, 16, 4, 2, 2), _C(16, 0, 16, 16, 4, 2, 2)),
    (80, 4, 64): (_C(16, 0, 32, 16, 4, 2, 4), _C(32, 0, 32, 16, 4, 2, 4)),
    (80, 4, 128): (_C(16, 0, 32, 16, 4, 2, 3), _C(32, 0, 32, 16, 4, 2, 3)),
    (80, 4, 256): (_C(16, 0, 16, 16, 4, 2, 2), _C(16, 0, 16, 16, 4, 2, 2)),
}
_INTERPRETED = (_C(16, 0, 128, 64, 4, 1, 1), _C(64, 0, 128, 64, 4, 1, 1))
MOST_ROWS_ANCHORED = {90: 128, 80: 64}
"""With anchors the kernel has more loops, and the largest tiles would spill."""
_FEWEST_TILES = 2  # of a split: less is not worth its share of the merge
_MOST_SPLITS = 128


def padded_head_dim(head_dim: int) -> int:
    """The power of 2 that a tile's width is: 16 to 256."""
    return max(16, 1 << (head_dim - 1).bit_length())


def architecture(capability: tuple[int, int]) -> int:
    """The table's architecture for a GPU."""
    return 90 if capability[0] == 9 else 80


def configurations(
    arch: int, dtype: torch.dtype, head_dim: int, anchored: bool
) -> tuple[Configuration, ...]:
    """What the table has, by rows, ascending."""
    if arch == INTERPRETER:
        return _INTERPRETED
    found = _TABLE[arch, dtype.itemsize, max(64, padded_head_dim(head_dim))]
    if not anchored:
        return found
    return tuple(each for each in found if each.rows <= MOST_ROWS_ANCHORED[arch])


def choose(
    arch: int, dtype: torch.dtype, head_dim: int, anchored: bool, rows: int, fixed: bool
) -> Configuration:
    """The configuration for `rows` = T * G; with `fixed`, the one that does not depend on them."""
    found = configurations(arch, dtype, head_dim, anchored)
    if fixed:
        return found[min(1, len(found) - 1)]
    # The fewest programs that read the same K and V, then the fewest rows of padding.
    return min(found, key=lambda each: (-(-rows // each.rows), each.rows))


def split_count(
    configuration: Configuration, programs: int, multiprocessors: int, slots: int
) -> int:
    """Splits that fill the GPU once, from what is known without reading a length.

    `programs` is how many there are without splits, `slots` the most that a row can see.
    """
    fitting = multiprocessors * configuration.resident // max(programs, 1)
    worthwhile = slots // (_FEWEST_TILES * configuration.block_n)
    return max(1, min(fitting, worthwhile, _MOST_SPLITS))
