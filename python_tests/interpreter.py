"""Runs Triton's kernels in the tests of any machine: on a GPU, else under Triton's interpreter.

`TRITON_INTERPRET` must be set before anything imports triton, so conftest imports this file. A
test parametrized over `DEVICES` runs on whichever of the two the process has. What needs compiled
kernels without a GPU (compiling ahead of time) runs in a process of its own, with
TRITON_INTERPRET=0 in its environment.
"""

from __future__ import annotations

import os

import pytest
import torch

from sparrow_kernels.ops.attention.triton import availability

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

CANNOT_INTERPRET = availability.unavailable() or (
    None if availability.interpreting() else "this process compiles kernels for its GPU"
)
interpreted = pytest.mark.skipif(CANNOT_INTERPRET is not None, reason=str(CANNOT_INTERPRET))

DEVICES = [
    pytest.param("cpu", marks=interpreted, id="interpreter"),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
