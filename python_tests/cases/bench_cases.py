"""What the tests of the benchmark share: a case simple enough to break in every way, and rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

import sparrow_kernels
from bench import floors, gate
from bench.case import Arguments, Case, Way
from bench.rows import Row

CPU = torch.device("cpu")
CASE_SEED = gate._SEED
# Rates of a moment: what a test asks of them is not how exact they are.
floors._STREAM_BYTES["cpu"] = 16 << 20
floors._PRODUCT["cpu"] = 128


@dataclass(frozen=True)
class Doubling(Case):
    """`states` times two, and the number of the largest: a float and an integer to get wrong."""

    op = "gather_hidden"  # any public name
    dtype: torch.dtype = torch.float32
    rows: int = 64
    wrong: tuple[Way, ...] = ()

    def bytes(self) -> int:
        return 2 * 4 * self.rows

    def flops(self) -> int:
        return self.rows

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        generator = torch.Generator().manual_seed(seed)
        return {"states": torch.randn(self.rows, generator=generator).to(self.dtype)}

    def call(self, arguments: Arguments) -> Any:
        return doubled(arguments)

    def ours(self, device: torch.device) -> list[Way]:
        return [our_way("right", doubled), *self.wrong]


def doubled(arguments: Arguments) -> Any:
    states = arguments["states"]
    return 2 * states, states.argmax()


def our_way(name: str, function: Callable[[Arguments], Any]) -> Way:
    return Way(name, True, lambda arguments: lambda: function(arguments))


def row(**changes: Any) -> Row:
    """A measured row of ours; `us` sets the three times, with a spread of a twentieth."""
    us = changes.pop("us", 10.0)
    base = Row(
        op="build_tree",
        case="T=64 B=1",
        backend="native",
        ours=True,
        dtype="int32",
        inputs="hot",
        status="ok",
        reason="",
        us_p20=us and us * 0.975,
        us_p50=us,
        us_p80=us and us * 1.025,
        samples=25 if us else 0,
        bytes=1000,
        flops=0,
        exps=0,
        issued_flops=None,
        floor_us=8.0,
        bound="bytes",
        percent_of_floor=80.0,
        stream_us=9.0,
        us_eager=None,
        sm_mhz=None,
        others_percent=None,
        command="python -m bench.run --all",
        device="a device",
        driver="",
        cuda="",
        torch=torch.__version__,
        triton="",
        version=sparrow_kernels.__version__,
        commit="abc",
        dirty=False,
        time="2026-01-01T00:00:00+00:00",
    )
    return replace(base, **changes)
