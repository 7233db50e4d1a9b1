"""Whether the installed Triton lets a warpgroup's products read what copies have written.

From 9.0 on tensor cores can read their operands from shared memory by themselves (wgmma, and
tcgen05 on 10.x), by another path than asynchronous copies write it: between the two there has to be
a fence, `fence.proxy.async`. Triton before 3.7.1 leaves it out of loops whose copies are on their
way while products run (triton-lang/triton#9610; seen in the PTX of our kernels: 3.6.0 and 3.7.0
have none in their loops, 3.7.1 and 3.9.0 have). Nothing wrong was ever seen on a GPU, but nothing
says that it cannot be: a row of keys read before it has arrived gives a slightly wrong result and
no error. So with such a Triton kernels take tiles for which the compiler uses `mma.sync`, whose
operands come from registers. Imports no triton.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import metadata

from sparrow_kernels.ops import env

FIRST_FENCED = (3, 7, 1)
AFFECTED = (9, 10)
"""Major compute capabilities with such products."""


def takes_warpgroup_products(major: int) -> bool:
    """Whether kernels for GPUs of compute capability `major`.x may use them."""
    asked = env.warpgroup_products()
    return major not in AFFECTED or (is_fenced(installed()) if asked is None else asked)


@cache
def is_fenced(version: str) -> bool:
    """Whether Triton of this version, such as "3.6.0" or "3.7.1+git12ab", has the fence."""
    numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    return numbers is not None and tuple(int(n or 0) for n in numbers.groups()) >= FIRST_FENCED


@cache
def installed() -> str:
    """The installed Triton's version, "" where there is none."""
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return ""


def standing() -> str:
    """What this installation does, in words."""
    version = installed()
    asked = env.warpgroup_products()
    if asked is not None:
        return f"{'used' if asked else 'not used'}, as SPARROW_WGMMA says"
    if not version:
        return "not used: triton is not installed"
    if is_fenced(version):
        return "used"
    first = ".".join(map(str, FIRST_FENCED))
    return (
        f"not used: triton {version} leaves out a fence that {first} has; GPUs of 9.x and 10.x get"
        " slower tiles (SPARROW_WGMMA=1 takes the others all the same)"
    )
