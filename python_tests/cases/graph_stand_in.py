"""A CUDA graph's stand-in on a CPU: records the ops of a part, and runs them again when replayed.

As with a graph, nothing of the Python code runs again: what it read on the host, or took from a
tensor that is made anew each step, stays as it was when it was captured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class RecordedGraph:
    """The ops of a part, with the tensors they read and wrote."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        if self.replays == 1:  # recording has run them, which a capture does not
            return
        for op, arguments, keywords, result in self.calls:
            again = op(*arguments, **keywords)
            for old, new in zip(tree_flatten(result)[0], tree_flatten(again)[0], strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class _Recording(TorchDispatchMode):
    def __init__(self, graph: RecordedGraph) -> None:
        super().__init__()
        self._graph = graph

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a capture must not wait for the device")
        keywords = kwargs or {}
        result = func(*args, **keywords)
        self._graph.calls.append((func, args, keywords, result))
        return result


def capture(part: Callable[[], None]) -> RecordedGraph:
    """As `sparrow_kernels.decoding.graphs.capture`."""
    graph = RecordedGraph()
    with _Recording(graph):
        part()
    return graph
