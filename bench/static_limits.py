"""What a compiled kernel must keep, and a row of the static table.

No spill and no stack; no product that may read what it should not (`bench.sass`); a main loop that
does not wait for every copy it has begun and, where it streams a cache, has enough on its way
(`bench.devices`); a block that fits the GPUs that run it; tensor cores and asynchronous copies
where they are expected.
"""

from __future__ import annotations

from bench import cubin, devices
from bench.shipped import Compiled
from bench.static_table import Row, pair


def kernel_failures(each: Compiled) -> list[str]:
    """What is wrong with one compiled kernel, in words."""
    name, kernel, found = f"{each.name} sm_{each.arch}", each.kernel, []
    if kernel.spill_bytes > 0:
        found.append(f"{name}: spills {kernel.spill_bytes} bytes")
    elif kernel.stack_bytes > 0:
        found.append(f"{name}: a stack of {kernel.stack_bytes} bytes")
    found += [f"{name}: {hazard}" for hazard in each.hazards()]
    if kernel.main_loop is not None and kernel.main_loop.wait_distance == 0:
        found.append(f"{name}: its main loop waits for every copy: nothing overlaps")
    if (bytes_ahead := each.in_flight()[1]) and _is_short(each.name, each.arch, bytes_ahead):
        found.append(f"{name}: {bytes_ahead} bytes on their way do not cover the memory's latency")
    if each.occupancy() == 0:
        found.append(f"{name}: no block of it fits a multiprocessor")
    elif _is_too_much(each.arch, each.smem_bytes):
        found.append(f"{name}: {each.smem_bytes} bytes of shared memory, {_TOO_MUCH}")
    if each.needs_tensor_cores and kernel.tensor_core_ops == 0:
        found.append(f"{name}: no tensor-core instruction")
    if each.needs_tensor_cores and kernel.async_copies == 0:
        found.append(f"{name}: no asynchronous copy")
    return found


def row_failures(row: Row) -> list[str]:
    """What is wrong with a line of the table, in words."""
    found = []
    name = f"{row['kernel']} {row['arch']} ({row['compiler']})"
    if row["spill_bytes"] != "0":
        found.append(f"{name}: spills in the table")
    arch = pair(row)[1]
    if row["wait_distance"] == "0":
        found.append(f"{name}: no overlap in the table")
    if row["hazards"] != "0":
        found.append(f"{name}: hazards in the table")
    if _is_too_much(arch, int(row["smem_bytes"] or 0)):
        found.append(f"{name}: shared memory in the table, {_TOO_MUCH}")
    ahead = int(row["bytes_in_flight"] or 0)
    if ahead and _is_short(row["kernel"], arch, ahead):
        found.append(f"{name}: too little on its way in the table")
    return found


def _is_short(kernel: str, arch: int, bytes_in_flight: int) -> bool:
    """Of the loops that stream a cache. One over anchors visits a few hundred slots."""
    streams = kernel.startswith("tree_attention") and " anchors" not in kernel
    return streams and bytes_in_flight < devices.bytes_to_cover_latency(arch)


_TOO_MUCH = "more than the 99 KB of 8.6, 8.9 and 12.x, which run this kernel too"


def _is_too_much(arch: int, smem_bytes: int) -> bool:
    return arch == 80 and smem_bytes > 99 * cubin.KIB
