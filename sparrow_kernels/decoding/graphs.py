"""A step's parts as CUDA graphs: one launch each, where eager code takes hundreds.

The first step of a shape runs as it is, which compiles and loads whatever its kernels need; the
second is captured part by part, and from then on they are replayed. What changes from step to step
lies in tensors that stay where they are. Where buffers have moved, it is captured again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from sparrow_kernels.decoding.protocols import Tree
from sparrow_kernels.decoding.step import Step


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
        self._tree: Tree | None = None

    def moved(self) -> None:
        """Buffers have moved: what was captured reads where they were."""
        self._graphs.clear()
        self._warm.clear()

    def draft(self) -> None:
        """See `Step.draft`."""
        self._run("draft")
        if "draft" in self._eager:
            self._keep_in_place()

    def verify(self) -> None:
        """See `Step.verify`."""
        self._run("verify")

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
            self._graphs[name] = self._capture(part)
        self._graphs[name].replay()

    def _keep_in_place(self) -> None:
        """Put an eager draft's tree where the graph of the verify looks for it."""
        drafted = self._step.drafted
        if self._tree is None:
            self._tree = drafted
            return
        for own, new in zip(_tensors(self._tree), _tensors(drafted), strict=True):
            own.copy_(new)
        self._step.drafted = self._tree


def _tensors(tree: Tree) -> list[Tensor]:
    return [tree.tokens, *tree.layout, *([] if tree.draft_probs is None else [tree.draft_probs])]
