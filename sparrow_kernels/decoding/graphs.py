"""A step's parts as CUDA graphs: one launch each, where eager code takes hundreds.

The first step of a shape runs as it is, which compiles and loads whatever its kernels need; the
second is captured part by part, and from then on they are replayed. What changes from step to step
lies in tensors that stay where they are. Where buffers have moved, it is captured again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sparrow_kernels.decoding.step import Step

_Made = TypeVar("_Made")


class Graph(Protocol):
    """What was captured."""

    def replay(self) -> None: ...


def capture(part: Callable[[], None]) -> Graph:
    """`part` as a CUDA graph, captured and not yet run."""
    graph = torch.cuda.CUDAGraph()
    # Another thread of the caller may allocate at the same time.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        part()
    return graph


class GraphedStep:
    """Runs the parts of `step` as graphs.

    Args:
        step: the step.
        eager: parts that must run as they are, since they look at the host.
        capture: makes a graph of a part.
    """

    def __init__(
        self,
        step: Step,
        eager: tuple[str, ...] = (),
        capture: Callable[[Callable[[], None]], Graph] = capture,
    ) -> None:
        self._step, self._eager, self._capture = step, eager, capture
        self._graphs: dict[str, Graph] = {}
        self._warm: set[str] = set()
        self._kept: dict[str, Any] = {}

    def moved(self) -> None:
        """Buffers have moved: what was captured reads where they were."""
        self._graphs.clear()
        self._warm.clear()
        self._kept.clear()

    def draft(self) -> None:
        """See `Step.draft`."""
        self._run("draft")
        if "draft" in self._eager:
            self._step.drafted = self._in_place("draft", self._step.drafted)

    def verify(self) -> None:
        """See `Step.verify`."""
        self._run("verify")
        if "verify" in self._eager:
            self._step.verified = self._in_place("verify", self._step.verified)

    def commit(self) -> None:
        """See `Step.commit`."""
        self._run("commit")

    def _run(self, name: str) -> None:
        part = getattr(self._step, name)
        if name in self._eager or name not in self._warm:
            self._warm.add(name)
            part()
            return
        if name not in self._graphs:
            try:
                self._graphs[name] = self._capture(part)
            except RuntimeError as error:
                self._run_as_it_is(name, error)
                return
        self._graphs[name].replay()

    def _run_as_it_is(self, name: str, error: RuntimeError) -> None:
        """A part that cannot be captured: a hook or layer of the caller's waits for the device."""
        warnings.warn(
            f"the {name} of a step cannot be a CUDA graph and runs as it is, more slowly: {error}"
            " (cuda_graph=False does not try)",
            stacklevel=2,
        )
        self._eager = (*self._eager, name)
        getattr(self._step, name)()

    def _in_place(self, name: str, made: _Made) -> _Made:
        """What an eager part has made, where the graphs of later parts look for it."""
        kept = self._kept.setdefault(name, made)
        if kept is not made:
            for own, new in zip(_tensors(kept), _tensors(made), strict=True):
                own.copy_(new)
        return kept


def _tensors(made: Any) -> list[Tensor]:
    return [each for each in tree_leaves(made) if isinstance(each, Tensor)]
