"""A short run of a tiny target, as a process: `python training_run.py FOLDER OUT`.

What it is to be killed in, resumed, and shared by several processes. Prints each step's loss.
"""

from __future__ import annotations

import copy
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from dialogue_cases import clip_dialogue, text_dialogue, write_clip, write_lines
from family_cases import tiny

from sparrow_kernels.training import run as run_module
from sparrow_kernels.training.data.dialogues import read_dialogues
from sparrow_kernels.training.data.encoding import Encoder
from sparrow_kernels.training.dialogue_training import DialogueTraining, TrainingSettings
from sparrow_kernels.training.run import DraftTraining
from sparrow_kernels.training.workers import Workers, join_workers

STEPS = 20


def dialogues(folder: Path) -> Path:
    """Eleven of them, two with a clip."""
    write_clip(folder)
    lines = [text_dialogue(seed, words=4 + seed) for seed in range(9)]
    lines[3:3] = [clip_dialogue("noise of a kind"), clip_dialogue("more noise")]
    return write_lines(folder / "data.jsonl", lines)


def training(
    folder: Path,
    out: Path,
    workers: Workers | None = None,
    dtype: torch.dtype = torch.float32,
    **settings: object,
) -> DialogueTraining:
    """A run over them, in both stages; in half precision products run in bfloat16."""
    target, processor = tiny("qwen2_5_vl")
    workers = workers or Workers()
    if (workers.device.type, dtype) != ("cpu", torch.float32):
        target = copy.deepcopy(target).to(workers.device, dtype)
    asked = {"steps": STEPS - 6, "text_steps": 6, "batch": 4, "passes": 3, "held_out": 1}
    asked |= {"measure_every": 8, "measured_tokens": 12, "tree": "6-5-1", "sees_clip": "middle"}
    return DialogueTraining(
        target,
        Encoder(target, processor),
        read_dialogues(folder / "data.jsonl"),
        out,
        TrainingSettings(**{**asked, **settings}),  # type: ignore[arg-type]
        workers=workers,
        autocast=None if dtype == torch.float32 else torch.bfloat16,
    )


def main(folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    run_module._SECONDS_BETWEEN_CHECKPOINTS = 0.0
    workers = join_workers(torch.device("cpu"))
    step = DraftTraining.step

    def shown(self: DraftTraining, number: int) -> object:
        result = step(self, number)
        if workers.is_first:
            print(f"step {number} loss {result.loss.item():.9f}", flush=True)
        return result

    DraftTraining.step = shown  # type: ignore[method-assign, assignment]
    training(folder, out, workers).run()
    workers.leave()


def forked(folder: Path, out: Path, told: Connection) -> None:
    """`main` in a process that a fork server made, which has imported all it needs."""
    os.dup2(told.fileno(), sys.stdout.fileno())
    main(folder, out)


def ranked(folder: Path, out: Path, group: dict[str, str], said: Path) -> None:
    """`forked`, as one of several processes, and what it says in a file."""
    os.environ.update(group)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream.fileno())
    main(folder, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
