"""Compiles what a peer compiles at first use, all of it at once, and says which ways then work.

    python -m bench.peers.warm

Ends with 77 where there is nothing to compile or no GPU to compile for, the reason in the last
line; with 1 where none of the compiled ways gives a right result.
"""

from __future__ import annotations

import sys
import time
import traceback

import torch

from bench import gate
from bench.cases.attention import TreeAttention
from bench.peers import flashinfer

_CANNOT = 77


def main() -> int:
    device = torch.device("cuda", 0)
    reason = flashinfer.missing(device)
    if reason is None and not torch.cuda.is_available():
        reason = "no CUDA GPU that this torch can use"
    if reason is not None:
        print(reason)
        return _CANNOT
    for dtype in flashinfer.DTYPES:
        _compile(dtype)
    results = [
        _works(TreeAttention(torch.bfloat16, prefix=512, nodes=nodes, batch=batch), device)
        for nodes, batch in ((30, 1), (30, 2), (1, 1))
    ]
    print(f"flashinfer {flashinfer.library().__version__}: {sum(results)} ways compiled and right")
    return int(not any(results))


def _compile(dtype: torch.dtype) -> None:
    began = time.monotonic()
    try:
        flashinfer.library().jit.build_jit_specs(flashinfer.kernels(dtype), verbose=False)
    except Exception:  # what it takes is then compiled one by one, as it is used
        traceback.print_exc()
    print(f"kernels for {dtype}: {time.monotonic() - began:.0f} s", flush=True)


def _works(case: TreeAttention, device: torch.device) -> int:
    """How many of its ways pass the gate for `case`."""
    wanted = gate.expected(case, device)
    passed = 0
    for way in flashinfer.tree_attention(device, case.prefix, nodes=case.nodes, batch=case.batch):
        reason = gate.refusal(case, way, device, wanted)
        print(f"{case.name}  {way.name}: {reason or 'right'}", flush=True)
        passed += reason is None
    return passed


if __name__ == "__main__":
    sys.exit(main())
