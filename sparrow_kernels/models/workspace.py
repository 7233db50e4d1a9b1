"""What outlives a call: caches, a step's buffers, and the graphs that know where they lie.

A decoder keeps what its last calls have used. Calls that overlap in threads use one each.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from sparrow_kernels.decoding import Coins, Step
from sparrow_kernels.decoding.coins import Generators
from sparrow_kernels.decoding.graphs import GraphedStep
from sparrow_kernels.drafting.state import DraftState
from sparrow_kernels.models.families import Parts
from sparrow_kernels.models.selection import TokenChooser
from sparrow_kernels.models.target import TargetState

_MOST_KEPT = 2


@dataclass
class Workspace:
    """Buffers for `batch` requests, of one call at a time."""

    batch: int
    target: TargetState | None = None
    draft: DraftState | None = None
    coins: Coins | None = None
    chooser: TokenChooser | None = None
    step: Step | None = None
    graphs: GraphedStep | None = None
    draft_made_for: Hashable = None
    made_for: Hashable = None
    """What the step and its graphs were made for: they serve a call that asks for the same."""

    def target_of(self, parts: Parts, slots: int) -> TargetState:
        """The target with room for `slots` cache slots a request."""
        if self.target is None or not self.target.fits(parts):
            self.target = TargetState(parts, self.batch, slots)
            self.made_for = None
            return self.target
        self.target.begin(parts)
        if slots > self.target.cache.capacity:
            # Twice, so that calls which are each a little longer do not all begin anew.
            self.target.enlarge(max(slots, 2 * self.target.cache.capacity))
            if self.graphs is not None:
                self.graphs.moved()
        return self.target

    def coins_of(self, nodes: int, device: torch.device, generators: Generators) -> Coins:
        """What samples, for trees of `nodes`."""
        if self.coins is None or self.coins.uniform.shape[1] != nodes + 1:
            self.coins = Coins(self.batch, nodes, device, generators)
            self.made_for = None
        self.coins.draw_from(generators)
        return self.coins

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, room included."""
        held = 0 if self.target is None else self.target.cache.nbytes
        return held + (0 if self.draft is None else self.draft.nbytes)


@dataclass
class Workspaces:
    """Those of a decoder that no call uses now, the last used last."""

    _free: list[Workspace] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def borrowed(self, batch: int) -> Iterator[Workspace]:
        """One for `batch` requests, with what an earlier call has left in it.

        Given back when the block ends well; after an error nothing is known of its buffers.
        """
        workspace = self._taken(batch)
        yield workspace
        with self._lock:
            self._free.append(workspace)
            del self._free[:-_MOST_KEPT]

    def _taken(self, batch: int) -> Workspace:
        with self._lock:
            for number in range(len(self._free) - 1, -1, -1):
                if self._free[number].batch == batch:
                    return self._free.pop(number)
        return Workspace(batch)

    def clear(self) -> None:
        """Let go of all of them."""
        with self._lock:
            self._free.clear()
