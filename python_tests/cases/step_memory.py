"""Peak memory of one training step, or of the target's pass before it, as a process:
`python step_memory.py KIND LENGTH`.

Prints the bytes that the process held at most above what it held before the step. glibc is told
(MALLOC_MMAP_THRESHOLD_) to give large blocks back at once, so that the peak is that of the step.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import torch
from family_cases import tiny
from torch import nn

from sparrow_kernels.drafting.losses import LOSSES
from sparrow_kernels.drafting.network import DraftNetwork, LayerShape
from sparrow_kernels.drafting.text_rows import TextRows
from sparrow_kernels.drafting.training_step import training_step
from sparrow_kernels.models.sequence import SequenceReader

HIDDEN, VOCABULARY, ANSWER = 64, 512, 128


def rows_of(kind: str, length: int) -> TextRows:
    """One sequence: a clip of `length` slots in sight, past `fc` or as rows; or a text so long."""
    rows = ANSWER if kind == "clip" else length
    tokens = torch.randint(VOCABULARY, (1, rows))
    hidden, state = torch.randn(2, 1, rows, HIDDEN)
    response = torch.zeros(1, rows, dtype=torch.bool)
    response[:, 0 if kind == "text" else rows - ANSWER :] = True
    if kind != "clip":
        return TextRows(tokens, hidden, state, response)
    return TextRows(
        tokens,
        hidden,
        state,
        response,
        positions=length + torch.arange(rows)[None],
        clip=torch.randn(1, length, HIDDEN),
        clip_positions=torch.arange(length)[None],
        runs_before=torch.ones(1, rows, dtype=torch.int64),
        clip_runs=((length,),),
    )


def held(name: str) -> int:
    """A line of this process's status, in bytes."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(name))
    return int(line.split()[1]) * 1024


def main() -> None:
    kind, length = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = DraftNetwork(LayerShape(HIDDEN, 128, heads=4, kv_heads=2, head_dim=16))
    embedding = nn.Embedding(VOCABULARY, HIDDEN).requires_grad_(False)
    lm_head = nn.Linear(HIDDEN, VOCABULARY, bias=False).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters())
    measured: partial[Any]
    sight = "middle" if kind == "clip" else "nothing"

    def step(rows: TextRows) -> None:
        training_step(
            network,
            optimizer,
            embedding,
            lm_head,
            [rows],
            passes=3,
            weights=LOSSES["soft"],
            theta=1e4,
            sees_clip=sight,
        )

    if kind == "target":
        reader = SequenceReader(tiny("Llama").target, (1,))
        measured = partial(reader, {"input_ids": torch.randint(10, 200, (1, length))})
        reader({"input_ids": torch.randint(10, 200, (1, 200))})
    else:
        step(rows_of(kind, 200))
        measured = partial(step, rows_of(kind, length))
    # What the first step of a process sets up is not the step's. The peak starts here.
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = held("VmRSS")
    kept = measured()
    print(held("VmHWM") - before)
    del kept


if __name__ == "__main__":
    main()
