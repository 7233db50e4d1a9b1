"""The tile sizes of the tree kernel: a small table, checked for spills by compiling ahead of time.

One row of the table serves an architecture, a width of dtype and a padded head dim. 9.0 has its
own, and one more for a Triton without fences; every other GPU from 8.0 on takes that of 8.0, whose
tiles fit 99 KB of shared memory. Imports no triton.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from sparrow_kernels.ops import fences


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
    """Of the compiler's pipeline. Of plain keys all but two are tiles ahead: their copies are on
    their way while another tile is worked on."""
    resident: int
    """Programs that fit on a multiprocessor of 9.0 or 8.0 together, as a test holds it to what the
    compiler made of the kernel. Keys in pages, in float8 or with a bias are split by the same
    number, whatever fits; of the GPUs that take 8.0's tiles, those with less memory hold fewer."""

    @property
    def rows(self) -> int:
        """Rows a program holds."""
        return self.block_m0 + self.block_m1


INTERPRETER = 0
"""The architecture of a CPU: under the interpreter a tile costs the same whatever its size."""
UNFENCED = 9
"""That of GPUs of 9.x and 10.x without a warpgroup's products (`ops/fences.py`): the compiler has
none for two warps, nor for 16 rows."""

_C = Configuration
_Table = dict[tuple[int, int, int], tuple[Configuration, ...]]
# (architecture, bytes an element, padded head dim) -> by rows, ascending. The second is what runs
# where num_splits is given: it must not depend on the number of rows.
_TABLE: _Table = {
    (90, 2, 64): (
        _C(16, 0, 64, 16, 4, 4, 4),
        _C(64, 0, 128, 32, 4, 3, 2),
        _C(128, 0, 64, 32, 8, 5, 2),
        _C(128, 64, 64, 32, 8, 6, 1),
        _C(128, 128, 64, 32, 8, 6, 1),
    ),
    # Two tiles of 128 rows, which share keys in the L2, took less than one of 128 + 128 on an
    # H200: 40.6 us against 41.3 for 30 nodes of 7 heads, 74.0 against 78.5 for 60.
    (90, 2, 128): (
        _C(16, 0, 64, 32, 4, 4, 2),
        _C(64, 0, 64, 32, 4, 4, 1),
        _C(128, 0, 128, 64, 8, 3, 1),
    ),
    (90, 2, 256): (
        _C(16, 0, 32, 32, 4, 3, 2),
        _C(64, 0, 32, 32, 8, 4, 1),
        _C(128, 0, 32, 32, 8, 4, 1),
    ),
    (80, 2, 64): (
        _C(16, 0, 64, 32, 4, 4, 3),
        _C(64, 0, 128, 32, 4, 3, 2),
        _C(128, 0, 64, 32, 8, 5, 1),
        _C(128, 128, 64, 32, 8, 4, 1),
    ),
    (80, 2, 128): (
        _C(16, 0, 64, 32, 4, 3, 2),
        _C(64, 0, 64, 32, 4, 3, 1),
        _C(128, 0, 64, 32, 8, 3, 1),
    ),
    (80, 2, 256): (
        _C(16, 0, 32, 32, 4, 3, 2),
        _C(64, 0, 16, 16, 8, 4, 1),
    ),
    (UNFENCED, 2, 64): (_C(16, 0, 64, 16, 4, 4, 4), _C(64, 0, 64, 32, 2, 4, 4)),
    (UNFENCED, 2, 128): (_C(16, 0, 64, 32, 4, 4, 2), _C(32, 0, 64, 32, 2, 4, 2)),
    (UNFENCED, 2, 256): (_C(16, 0, 32, 32, 4, 3, 2),),
    # Without tensor cores (float32 products are IEEE) small tiles: larger ones spill.
    (90, 4, 64): (_C(16, 0, 32, 16, 4, 4, 3), _C(32, 0, 32, 16, 4, 4, 3)),
    (90, 4, 128): (_C(16, 0, 16, 16, 4, 3, 5), _C(16, 0, 16, 16, 4, 3, 5)),
    (90, 4, 256): (_C(16, 0, 16, 16, 4, 3, 2), _C(16, 0, 16, 16, 4, 3, 2)),
    (80, 4, 64): (_C(16, 0, 32, 16, 4, 3, 4), _C(32, 0, 32, 16, 4, 3, 3)),
    (80, 4, 128): (_C(16, 0, 16, 16, 4, 3, 3), _C(16, 0, 16, 16, 4, 3, 3)),
    (80, 4, 256): (_C(16, 0, 16, 16, 4, 3, 1), _C(16, 0, 16, 16, 4, 3, 1)),
}
# The same with anchors. Their slots are loaded before their keys, which takes a stage more for
# every tile ahead: with four stages nothing would overlap. There are more loops, too, and the
# largest tiles would spill.
_ANCHORED: _Table = {
    (90, 2, 64): (
        _C(16, 0, 64, 32, 4, 5, 3),
        _C(64, 0, 64, 32, 4, 5, 2),
        _C(128, 0, 64, 32, 8, 5, 1),
    ),
    (90, 2, 128): (
        _C(16, 0, 64, 32, 4, 5, 1),
        _C(64, 0, 64, 32, 4, 5, 1),
        _C(128, 0, 64, 32, 8, 5, 1),
    ),
    (90, 2, 256): (_C(16, 0, 32, 32, 4, 5, 1), _C(64, 0, 32, 32, 8, 5, 1)),
    (80, 2, 64): (_C(16, 0, 64, 32, 4, 5, 2), _C(64, 0, 64, 32, 4, 5, 2)),
    (80, 2, 128): (_C(16, 0, 32, 32, 4, 5, 2), _C(64, 0, 32, 32, 4, 5, 1)),
    (80, 2, 256): (_C(16, 0, 16, 16, 4, 5, 2), _C(64, 0, 16, 16, 8, 5, 1)),
    (UNFENCED, 2, 64): (_C(16, 0, 64, 32, 4, 5, 3), _C(64, 0, 32, 32, 2, 5, 4)),
    (UNFENCED, 2, 128): (_C(16, 0, 64, 32, 4, 5, 1), _C(32, 0, 32, 32, 2, 5, 3)),
    (UNFENCED, 2, 256): (_C(16, 0, 32, 32, 4, 5, 1),),
    (90, 4, 64): (_C(16, 0, 32, 16, 4, 5, 3), _C(32, 0, 32, 16, 4, 5, 2)),
    (90, 4, 128): (_C(16, 0, 16, 16, 4, 5, 3), _C(16, 0, 16, 16, 4, 5, 3)),
    (90, 4, 256): (_C(16, 0, 16, 16, 4, 5, 2), _C(16, 0, 16, 16, 4, 5, 2)),
    (80, 4, 64): (_C(32, 0, 32, 16, 4, 5, 2), _C(32, 0, 32, 16, 4, 5, 2)),
    (80, 4, 128): (_C(16, 0, 16, 16, 4, 5, 2), _C(16, 0, 16, 16, 4, 5, 2)),
    (80, 4, 256): (_C(16, 0, 16, 16, 4, 5, 1), _C(16, 0, 16, 16, 4, 5, 1)),
}
_INTERPRETED = (_C(16, 0, 128, 64, 4, 1, 1), _C(64, 0, 128, 64, 4, 1, 1))
MOST_SPLITS = 32
TREE_TILES = 6
"""Whole tiles that a split has less for those of the tree: words first, then keys, one after the
other. On an H100 with 25,600 slots, six took least of 0, 2, 3, 4, 6 and 8: this kernel took 3 us
less than with none for 8 nodes, 6 us for 60."""
_LONGEST_RUN = 32
"""Tiles. In a batch of many programs the longest request would else be left to a few of them."""
_SLOTS = 256
"""In which slots are counted, so that what pages round up (of a size that divides it) does not
show: a cache in pages is cut as one in one piece."""
_FEWEST_TILES = 2  # of a split: less is not worth its share of the merge
# In tiles, from replays on an H200 with 25,600 slots and 1 to 60 nodes:
_FIXED = 4  # of a program: lengths, queries, the first tile, masked tiles, the result
_MERGE = 1  # of a call with several splits, and again for each wave of programs that wrote parts
_MOST_WAVES = 16
"""Of splits that nothing but a long request needs: their parts are written, kept and read."""


def padded_head_dim(head_dim: int) -> int:
    """The power of 2 that a tile's width is: 16 to 256."""
    return max(16, 1 << (head_dim - 1).bit_length())


def architecture(capability: tuple[int, int]) -> int:
    """The table's architecture for a GPU, with the installed Triton."""
    major = capability[0]
    if not fences.takes_warpgroup_products(major):
        return UNFENCED
    return 90 if major == 9 else 80


def configurations(
    arch: int,
    dtype: torch.dtype,
    head_dim: int,
    anchored: bool,
    indirect: bool = False,
    biased: bool = False,
    float8: bool = False,
) -> tuple[Configuration, ...]:
    """What the table has, by rows, ascending. With `indirect`, keys in pages or with a bias: the
    same tiles and splits, so that a result has the same bits, with stages for one more load. With
    `biased` the longest tiles, which would spill, are cut, with `float8` those of two warps."""
    if arch == INTERPRETER:
        return _INTERPRETED
    if arch == UNFENCED and dtype.itemsize == 4:
        arch = 90  # float32 has no such products
    table = _ANCHORED if anchored else _TABLE
    found = table[arch, dtype.itemsize, max(64, padded_head_dim(head_dim))]
    if float8 and not anchored:  # half the bytes a tile, so twice the tiles ahead
        found = tuple(each._replace(num_stages=2 * each.num_stages - 2) for each in found)
    if indirect:
        longest = [_longest_biased(arch, dtype, each) if biased else each.block_n for each in found]
        found = tuple(_indirect(each, n, anchored) for each, n in zip(found, longest, strict=True))
    if biased and anchored and (arch, dtype.itemsize) == (80, 4) and head_dim > 128:
        found = tuple(each._replace(num_stages=5) for each in found)  # with seven, past 99 KB
    if biased and arch == UNFENCED and head_dim > 64:
        found = found[:1]  # 32 rows of two warps have no register left for a bias
    if float8 and arch == UNFENCED:
        found = found[:1]  # nor for conversions
    return found


def _longest_biased(arch: int, dtype: torch.dtype, each: Configuration) -> int:
    if arch == 90 and dtype.itemsize == 4:
        return 16  # with 16 rows of head dim 64, 32 slots spill
    return each.block_n // 2 if arch == UNFENCED else min(each.block_n, 64)


def _indirect(each: Configuration, block_n: int, anchored: bool) -> Configuration:
    """With one more load in front of the keys. As many bytes of them stay on their way: a stage in
    three is a tile ahead, and the first two are none."""
    stages = each.num_stages + 2  # anchors are such a load already
    if not anchored:
        stages = 2 + 3 * (each.num_stages - 2) * (each.block_n // block_n)
    return each._replace(block_n=block_n, num_stages=stages)


def choose(
    arch: int,
    dtype: torch.dtype,
    head_dim: int,
    anchored: bool,
    rows: int,
    fixed: bool,
    indirect: bool = False,
    biased: bool = False,
    float8: bool = False,
) -> Configuration:
    """The configuration for `rows` = T * G; with `fixed`, the one that does not depend on them."""
    found = configurations(arch, dtype, head_dim, anchored, indirect, biased, float8)
    if fixed:
        return found[min(1, len(found) - 1)]
    # The fewest programs that read the same K and V, then the fewest rows of padding.
    return min(found, key=lambda each: (-(-rows // each.rows), each.rows))


def most_registers(configuration: Configuration, indirect: bool) -> int | None:
    """What the compiler is told that a thread may have, None where it is left alone: by itself it
    spills one to three registers of small tiles in pages or with a bias, to have more of them on a
    multiprocessor, and twelve of two warps' largest; told of a limit it spills others."""
    if configuration.num_warps == 2 and configuration.rows == 64:
        return 240
    small = configuration.rows == 16 and configuration.block_n >= 32
    return 255 if indirect and small else None


def options(configuration: Configuration, indirect: bool) -> dict[str, int]:
    """How the compiler is asked to make a tile."""
    asked = {"num_warps": configuration.num_warps, "num_stages": configuration.num_stages}
    most = most_registers(configuration, indirect)
    return asked if most is None else asked | {"maxnreg": most}


def splits_tile(rows: int) -> tuple[int, int]:
    """Rows and splits of a merge's tile, by the rows that a program of the tree kernel holds: the
    more rows there are, the fewer splits. So a merge is compiled anew only where that kernel is."""
    return (1, MOST_SPLITS) if rows <= 64 else (4, MOST_SPLITS // 4)


def split_count(
    configuration: Configuration, programs: int, multiprocessors: int, slots: int, batch: int = 1
) -> int:
    """Splits that take least, from what is known without reading a length.

    `programs` is how many there are without splits, `slots` the most that a row can see: how long
    each of `batch` requests really is does not show here, so that a long one must find splits
    enough in any company. Those of a short one that hold nothing leave at once.
    """
    tiles = -(-slots // _SLOTS) * _SLOTS / configuration.block_n
    most = max(1, min(int(tiles) // _FEWEST_TILES, MOST_SPLITS))
    room = multiprocessors * configuration.resident
    fewest = 1
    if batch > 1:
        fewest = min(most, math.ceil(tiles / _LONGEST_RUN), _MOST_WAVES * room // max(programs, 1))

    def cost(splits: int) -> float:
        waves = programs * splits / room
        merge = _MERGE * (1 + waves) if splits > 1 else 0.0
        return math.ceil(waves) * (tiles / splits + _FIXED) + merge

    return min(range(max(1, fewest), most + 1), key=cost)
