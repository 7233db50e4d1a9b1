"""What a speed goal can ask of measured cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from bench.matches import Match, median
from bench.rows import Row


class Outcome(NamedTuple):
    """What the rows say to a rule."""

    is_met: bool | None
    """None: something it needs was not measured."""
    text: str
    because: tuple[Row, ...] = ()
    """The rows that say so."""

    @property
    def word(self) -> str:
        return {True: "met", False: "missed", None: "not measured"}[self.is_met]


class Rule(Protocol):
    @property
    def asks(self) -> str: ...

    def __call__(self, cells: Sequence[Match | None]) -> Outcome: ...


_NOT_MEASURED = Outcome(None, "-")


class AtMost(NamedTuple):
    """A time."""

    microseconds: float

    @property
    def asks(self) -> str:
        return f"at most {self.microseconds:g} us"

    def __call__(self, cells: Sequence[Match | None]) -> Outcome:
        (cell,) = cells
        if cell is None:
            return _NOT_MEASURED
        time = median(cell.ours)
        return Outcome(time <= self.microseconds, f"{time:.2f} us", (cell.ours,))


class OfFloor(NamedTuple):
    """A share of the floor; the stretch is worth saying, not a condition."""

    percent: float
    stretch: float | None = None

    @property
    def asks(self) -> str:
        wish = "" if self.stretch is None else f" (stretch: {self.stretch:.0f} %)"
        return f"at least {self.percent:.0f} % of the floor{wish}"

    def __call__(self, cells: Sequence[Match | None]) -> Outcome:
        (cell,) = cells
        if cell is None or cell.ours.percent_of_floor is None:
            return _NOT_MEASURED
        share = cell.ours.percent_of_floor
        wish = ", stretch met" if self.stretch is not None and share >= self.stretch else ""
        text = f"{share:.0f} % ({median(cell.ours):.2f} us){wish}"
        return Outcome(share >= self.percent, text, (cell.ours,))


class FasterThan(NamedTuple):
    """So many times as fast as the fastest of some peers."""

    times: float
    name: str
    peers: tuple[str, ...]
    """How the names of the peers begin."""

    @property
    def asks(self) -> str:
        return f"at least {self.times:g} x {self.name}"

    def __call__(self, cells: Sequence[Match | None]) -> Outcome:
        (cell,) = cells
        peer = _fastest(cell, self.peers)
        if cell is None or peer is None:
            return _NOT_MEASURED
        ratio = cell.ratio(peer)
        text = f"{ratio:.2f} x ({peer.backend})"
        return Outcome(ratio >= self.times, text, (cell.ours, peer))


class NeverSlower(NamedTuple):
    """In no cell slower than a share of the best peer, and faster by a geometric mean."""

    least: float
    mean: float
    name: str
    peers: tuple[str, ...]
    only: str = ""
    """What a peer's name must have in it."""
    without: str | None = None
    """What it must not have in it."""

    @property
    def asks(self) -> str:
        return f"at least {self.least:g} x {self.name} in each, {self.mean:g} x on average"

    def __call__(self, cells: Sequence[Match | None]) -> Outcome:
        ratios: list[tuple[float, Match, Row]] = []
        for cell in cells:
            peer = _fastest(cell, self.peers, self.only, self.without)
            if cell is not None and peer is not None:
                ratios.append((cell.ratio(peer), cell, peer))
        if not ratios:
            return _NOT_MEASURED
        mean = math.exp(sum(math.log(ratio) for ratio, _, _ in ratios) / len(ratios))
        worst, cell, peer = min(ratios, key=lambda each: each[0])
        text = f"worst {worst:.2f} x ({peer.backend}), geometric mean {mean:.2f} x"
        is_met: bool | None = worst >= self.least and mean >= self.mean
        if len(ratios) < len(cells):
            text += f", {len(ratios)} of {len(cells)} cells"
            # A cell that is too slow stays so; the rest must be there for the goal to be met.
            is_met = False if worst < self.least else None
        return Outcome(is_met, text, (cell.ours, peer))


class Flat(NamedTuple):
    """The second cell takes no longer than `times` the first, give or take."""

    percent: float = 0.0
    microseconds: float = 0.0
    times: float = 1.0

    @property
    def asks(self) -> str:
        if self.times != 1:
            return f"at least {1 / self.times:g} x as fast"
        return f"no longer, within {self.percent:g} % or {self.microseconds:g} us"

    def __call__(self, cells: Sequence[Match | None]) -> Outcome:
        first, second = cells
        if first is None or second is None:
            return _NOT_MEASURED
        if first.inputs != second.inputs:
            return Outcome(None, f"{first.inputs} inputs against {second.inputs} ones")
        reference, time = median(first.ours), median(second.ours)
        slack = max(reference * self.percent / 100, self.microseconds)
        text = f"{time:.2f} us against {reference:.2f} us"
        is_met = time <= self.times * reference + slack
        return Outcome(is_met, text, (first.ours, second.ours))


class All(NamedTuple):
    """Every rule of several."""

    rules: tuple[Rule, ...]

    @property
    def asks(self) -> str:
        return " and ".join(rule.asks for rule in self.rules)

    def __call__(self, cells: Sequence[Match | None]) -> Outcome:
        found = [rule(cells) for rule in self.rules]
        met = [each.is_met for each in found]
        is_met = False if False in met else None if None in met else True
        return Outcome(is_met, *_joined(found))


class EitherWay(NamedTuple):
    """One rule or the other."""

    first: Rule
    second: Rule

    @property
    def asks(self) -> str:
        return f"{self.first.asks}, or {self.second.asks}"

    def __call__(self, cells: Sequence[Match | None]) -> Outcome:
        found = [self.first(cells), self.second(cells)]
        met = [each.is_met for each in found]
        is_met = True if True in met else None if None in met else False
        return Outcome(is_met, *_joined(found))


def together(*rules: Rule) -> All:
    return All(rules)


def _joined(found: Sequence[Outcome]) -> tuple[str, tuple[Row, ...]]:
    because = tuple(dict.fromkeys(row for each in found for row in each.because))
    texts = dict.fromkeys(each.text for each in found)
    return ", ".join(texts), because


def _fastest(
    cell: Match | None, peers: Sequence[str], only: str = "", without: str | None = None
) -> Row | None:
    for row in cell.peers if cell is not None else ():
        is_asked = row.backend.startswith(tuple(peers)) and only in row.backend
        if is_asked and (without is None or without not in row.backend):
            return row
    return None
