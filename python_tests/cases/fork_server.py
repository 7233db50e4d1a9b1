"""Processes forked from one that has imported transformers and ours, most of a short run."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

CASES = Path(__file__).resolve().parent
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["training_run", "slow_save", "parallel_run", "sparrow_process"])


def environment() -> dict[str, str]:
    """Of a process that finds the cases, and takes one core."""
    paths = os.pathsep.join(map(str, (CASES.parents[1], CASES.parent, CASES)))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def forked(target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """A process that runs `target`, a function of one of the cases, and has begun. One that a
    failed test leaves behind ends with the tests, which would wait for it else."""
    process = SERVER.Process(target=target, args=arguments, daemon=True)
    with patch.dict(os.environ, environment()):  # the server starts with the first
        process.start()
    return process


def group(size: int) -> list[dict[str, str]]:
    """What the environment of each of several processes says, as torchrun sets it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
