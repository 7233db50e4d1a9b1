"""The Python of a Triton launch, without a GPU: nothing is compiled, and launches are written down.

Run as a program, in a process that does not interpret: prints as JSON what each of the functions
that are named to it answers, in a fork of its own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from types import SimpleNamespace
from typing import Any

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from sparrow_kernels.ops.attention.triton import launch, merge, tree, tree_launch

HEADS, KV_HEADS, HEAD_DIM = 28, 4, 128

compiled: list[tuple[str, str]] = []
"""Kernel and key of what Triton would have compiled."""
launches: list[tuple[Any, ...]] = []
"""Kernel, grid and arguments, while"""
recording = True


class Driver:
    """An H100, as far as a launch asks."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def stub() -> None:
    driver.set_active(Driver())
    facts = tree_launch.Device(90, 132, True)
    tree_launch.device_facts = lambda device: facts  # type: ignore[assignment]
    for kernel in (tree.tree_kernel, merge.splits_kernel):
        kernel._do_compile = lambda key, *_, kernel=kernel: _compile(kernel, key)


def _compile(kernel: Any, key: str) -> SimpleNamespace:
    name = kernel.fn.__name__
    compiled.append((name, key))

    def run(*arguments: Any) -> None:
        if not recording:
            return
        grid, values = arguments[:3], arguments[9:]
        found = (each.data_ptr() if isinstance(each, torch.Tensor) else each for each in values)
        launches.append((name, grid, *found))

    made = SimpleNamespace(
        run=run, function=1, packed_metadata=(), launch_metadata=lambda *_: None, metadata={}
    )
    kernel.device_caches[0][0][key] = made
    return made


def call(nodes: int, batch: int = 1, at: int = 0, slots: int = 25664, **options: Any) -> list[int]:
    """One call; words and lengths begin `at` elements into their memory. Its pointers."""
    query = torch.zeros(batch, nodes, HEADS, HEAD_DIM, dtype=torch.bfloat16).transpose(1, 2)
    cache = torch.empty(batch, KV_HEADS, slots, HEAD_DIM, dtype=torch.bfloat16)
    words = torch.zeros(batch * nodes * 4 + at, dtype=torch.int64)[at:]
    width = -(-nodes // 64)
    ancestors = words[: batch * nodes * width].view(batch, nodes, width)
    lengths = torch.zeros(batch + at, dtype=torch.int32)[at:]
    tree_launch.tree_attention(
        query, cache, cache, ancestors, lengths,
        None, None, None, None, None, None, HEAD_DIM**-0.5, options.get("num_splits"),
    )  # fmt: skip
    return [each.data_ptr() for each in (query, cache, ancestors, lengths)]


def keys() -> list[Any]:
    """What is compiled by the first call of each tile, and what by all others with those tiles."""
    first = [1, 8, 30]
    for nodes in first:
        call(nodes)
    before = list(compiled)
    for nodes in (1, 2, 5, 8, 9, 15, 16, 17, 29, 30, 31, 32, 33, 48, 60, 64, 65, 130):
        for batch in (1, 2, 3, 16):
            call(nodes, batch, slots=640)
        call(nodes, at=1, slots=640)
        call(nodes, slots=656)
    return [len(before), [name for name, _ in compiled[len(before) :]]]


def launched() -> list[Any]:
    """Pointers of a call, its launches and how many of them went Triton's own way: each call twice,
    all once, then all again."""
    found: list[Any] = []
    own: list[int] = []
    for kernel in (tree.tree_kernel, merge.splits_kernel):
        usual = kernel.run
        kernel.run = lambda *args, usual=usual, **options: (
            own.append(1), usual(*args, **options)
        )[1]  # fmt: skip
    for nodes, batch, at, splits in 2 * (
        (30, 1, 0, None), (8, 2, 1, None), (8, 2, 0, 1), (60, 1, 0, 5), (60, 1, 0, 6)
    ):  # fmt: skip
        launches.clear()
        own.clear()
        pointers = call(nodes, batch, at, 640, num_splits=splits)
        found.append([pointers, list(launches), len(own)])
    return found


def listened() -> list[int]:
    """Calls that a hook of launches saw, of two: `run` gets it from Triton's own way alone."""
    seen: list[int] = []
    call(8, slots=640)
    knobs.runtime.launch_enter_hook.add(seen.append)
    usual = tree.tree_kernel.run
    tree.tree_kernel.run = lambda *args, **options: (seen.append(1), usual(*args, **options))[1]
    call(8, slots=640)
    call(8, slots=640)
    return seen


def early() -> list[Any]:
    """Kernels of a call that are asked to begin early: on a GPU that lets them, and on another."""
    found = []
    for dependent in (True, False):
        facts = tree_launch.Device(90, 132, dependent)
        tree_launch.device_facts = lambda device, facts=facts: facts  # type: ignore[assignment]
        tree_launch.plan.cache_clear()
        launch._KEPT.clear()
        compiled.clear()
        call(8, slots=640)
        found.append([name for name, key in compiled if "'launch_pdl': True" in key])
    return found


def microseconds() -> list[float]:
    """Of the processor, for the Python of a call with two launches, the best of five runs: through
    Triton's binder, then kept."""
    global recording
    recording = False
    query = torch.zeros(1, HEADS, 30, HEAD_DIM, dtype=torch.bfloat16)
    cache = torch.empty(1, KV_HEADS, 25664, HEAD_DIM, dtype=torch.bfloat16)
    words = torch.zeros(1, 30, 1, dtype=torch.int64)
    lengths = torch.zeros(1, dtype=torch.int32)
    rest = (None, None, None, None, None, None, HEAD_DIM**-0.5, None)
    found = []
    for most_kept in (0, 1000):
        launch._MOST_KEPT = most_kept
        best = float("inf")
        for _ in range(5):
            begin = time.process_time()
            for _ in range(200):
                tree_launch.tree_attention(query, cache, cache, words, lengths, *rest)
                if most_kept == 0:
                    launch._KEPT.clear()
            best = min(best, (time.process_time() - begin) / 200 * 1e6)
        found.append(best)
    return found


if __name__ == "__main__":
    stub()
    for name in sys.argv[1:]:
        if os.fork() == 0:
            print(json.dumps(globals()[name]()))
            break
        if os.wait()[1] != 0:
            sys.exit(1)
