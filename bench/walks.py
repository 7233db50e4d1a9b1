"""What a walk of residual acceptance takes on a GPU, by arithmetic.

    time = launch + nodes + refusals + a join of clusters + the bytes at a share of the bandwidth

`THEN` are of one H200: its sampled program counters said how what it took divides among them.
`PRESENT` are these by the instructions of a warp, as nvcc 13.0 compiles them for 9.0: 650 a node
where it was 1,200 (half of its time is instructions), 680 a refusal where it was 800, 860 a turn of
softmax where it was 995. No GPU has timed the present kernel.
"""

from __future__ import annotations

from typing import NamedTuple

from bench import floors
from bench.cases.sampling import AcceptTreeResidual, AcceptTreeResidualLogits
from bench.devices import Device


class Costs(NamedTuple):
    """Microseconds, of one cluster of sixteen blocks on a device of 9.0."""

    launch: float
    node: float
    """Links or a decision, both rows loaded and summed, the exchange of their masses."""
    softmax: float
    """More for logits: exponentials, and the exchange of the highest."""
    refusal: float
    join: float | None
    """Of clusters that tried a node each: a fence, a counter, the steps; None: there are none."""


THEN = Costs(2.0, 3.2, 5.6, 2.1, None)
PRESENT = Costs(2.0, 2.5, 4.9, 1.85, 1.4)

_LARGEST = 16
"""Blocks of the largest cluster,"""
_LARGEST_AT_ONCE = 8
"""and how many of it run at once: one a group of sixteen or eighteen multiprocessors."""
_SHARE = 0.85
"""Of the bandwidth that the bulk reaches."""
_L2_BYTES_A_CLOCK = 64
"""What a multiprocessor gets from the L2, where its block has no cluster to keep the rows in,"""
_MOST_SCRATCH = 64 << 20
"""and the most bytes that the rows of all blocks may take there."""


def microseconds(case: AcceptTreeResidual, device: Device, costs: Costs = PRESENT) -> float:
    """The middle of the range; every node with children has `refused` of them refused."""
    is_apart = costs.join is not None and case.levels <= clusters(case, device)
    nodes = 2 if is_apart else case.levels + 1
    refusals = case.refused * (1 if is_apart else case.levels)
    node = costs.node + (costs.softmax if isinstance(case, AcceptTreeResidualLogits) else 0.0)
    refusal = costs.refusal
    if device.arch < 90:
        # One multiprocessor reads the rows, writes them as weights, and reads them again each time.
        both = 2e-3 * 4 * case.vocab / (_L2_BYTES_A_CLOCK * device.ghz)
        node, refusal = node + 2 * both, refusal + both
    floor = floors.floor(case, device.rates(case.dtype)).microseconds
    if is_apart:  # both rows of each inner node at once, and of a leaf's target for each
        floor *= 3 * case.levels / (2 * case.levels + 2)
    join = costs.join if is_apart and costs.join is not None else 0.0
    return costs.launch + nodes * node + refusals * refusal + join + floor / _SHARE


def clusters(case: AcceptTreeResidual, device: Device) -> int:
    """Of a request, as csrc/cuda/residual.cu chooses for a vocabulary that fills the largest."""
    if device.arch < 90:
        scratch = case.batch * 2 * 4 * case.vocab
        at_once = min(device.multiprocessors, case.batch * (_MOST_SCRATCH // scratch))
    elif case.batch <= _LARGEST_AT_ONCE:
        at_once = _LARGEST_AT_ONCE
    else:
        at_once = 2 * device.multiprocessors // _LARGEST
    return max(1, min(16, at_once // case.batch))
