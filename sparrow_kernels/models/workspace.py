"""What outlives a call: caches, a step's buffers, and the graphs that know where they lie.

A decoder keeps what its last calls have used. Calls that overlap in threads use one each.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from sparrow_kernels.decoding import Coins, Step
from sparrow_kernels.decoding.coins import Generators
from sparrow_kernels.decoding.graphs import GraphedStep
from sparrow_kernels.decoding.recorded_step import RecordedStep
from sparrow_kernels.drafting.state import DraftState
from sparrow_kernels.models.families import Parts
from sparrow_kernels.models.selection import TokenChooser
from sparrow_kernels.models.target import TargetState

_MOST_KEPT = 2


@dataclass(eq=False)
class Workspace:
    """Buffers for `batch` requests, of one call at a time."""

    batch: int
    target: TargetState | None = None
    draft: DraftState | None = None
    coins: Coins | None = None
    chooser: TokenChooser | None = None
    step: Step | None = None
    graphs: GraphedStep | RecordedStep | None = None
    draft_made_for: Hashable = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held by the call that uses it."""
    made_for: Hashable = None
    """What the step and its graphs were made for: they serve a call that asks for the same."""

    def forget_call(self) -> None:
        """Nothing is known of the buffers any more: begin anew in the next call."""
        self.target = self.draft = self.step = self.graphs = self.made_for = None

    def target_of(self, parts: Parts, slots: int, compiled: bool = False) -> TargetState:
        """The target with room for `slots` cache slots a request."""
        if self.target is None or not self.target.fits(parts, compiled):
            self.target = TargetState(parts, self.batch, slots, compiled)
            self.draft = self.made_for = None  # whose head may be a slice of other weights
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


class Workspaces:
    """Those that a decoder keeps for its next call, the last used last."""

    def __init__(self) -> None:
        self._kept: list[Workspace] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copied or pickled decoder begins without any: buffers are one call's at a time."""
        return (Workspaces, ())

    def taken(self, batch: int) -> Workspace:
        """One for `batch` requests that no call uses now, or a new one; locked."""
        with self._lock:
            for workspace in reversed(self._kept):
                if workspace.batch == batch and workspace.lock.acquire(blocking=False):
                    return workspace
        workspace = Workspace(batch)
        workspace.lock.acquire()
        return workspace

    def keep(self, workspace: Workspace) -> None:
        """Keep it for the next call; the oldest goes where there are too many."""
        with self._lock:
            if workspace in self._kept:
                self._kept.remove(workspace)
            self._kept.append(workspace)
            del self._kept[:-_MOST_KEPT]

    def forget(self, workspace: Workspace) -> None:
        """Let go of one, whose buffers an error has left in an unknown state."""
        with self._lock:
            if workspace in self._kept:
                self._kept.remove(workspace)

    def clear(self) -> None:
        """Let go of all of them."""
        with self._lock:
            self._kept.clear()


@contextmanager
def lent(
    workspaces: Workspaces, batch: int, cache: Any
) -> Iterator[tuple[Workspace, TargetState | None]]:
    """A workspace for one call, and a target whose cache it may take slots over from.

    The one that `cache`, an earlier call's, lies in, if it is for as many requests; else another,
    and slots are copied. A cache that another call writes to at this moment is left alone.
    """
    source: Workspace | None = getattr(cache, "workspace", None)
    locked = source is not None and source.lock.acquire(blocking=False)
    earlier = source.target if source is not None and locked else None
    is_own = earlier is not None and source is not None and source.batch == batch
    workspace = source if is_own and source is not None else workspaces.taken(batch)
    try:
        yield workspace, earlier
        workspaces.keep(workspace)
    except BaseException:
        workspace.forget_call()
        workspaces.forget(workspace)
        raise
    finally:
        workspace.lock.release()
        if locked and not is_own and source is not None:
            source.lock.release()
