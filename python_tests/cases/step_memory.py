"""Peak memory of one training step, or of the target's pass before it.

Counted are the most bytes that PyTorch's allocator held at once above what it held before: what the
process holds differs from machine to machine and from run to run.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate

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


def peak(run: Callable[[], object]) -> int:
    gc.collect()  # what earlier runs left is not freed while this one is counted
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        kept = run()
    del kept
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(accumulate((nbytes for _, nbytes in changes), initial=0))


def peaks(kind: str, lengths: Sequence[int]) -> list[int]:
    """The most bytes held during a step, or a pass, over each of these lengths."""
    torch.manual_seed(0)
    if kind == "target":
        reader = SequenceReader(tiny("Llama").target, (1,))
        runs = [partial(reader, {"input_ids": torch.randint(10, 200, (1, n))}) for n in lengths]
        reader({"input_ids": torch.randint(10, 200, (1, 200))})
        return [peak(run) for run in runs]
    network = DraftNetwork(LayerShape(HIDDEN, 128, heads=4, kv_heads=2, head_dim=16))
    embedding = nn.Embedding(VOCABULARY, HIDDEN).requires_grad_(False)
    lm_head = nn.Linear(HIDDEN, VOCABULARY, bias=False).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters())

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
            sees_clip="middle" if kind == "clip" else "nothing",
        )

    step(rows_of(kind, 200))
    return [peak(partial(step, rows_of(kind, length))) for length in lengths]
