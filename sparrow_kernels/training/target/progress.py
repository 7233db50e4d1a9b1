"""Where the target's run stands, and its checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sparrow_kernels.training.checkpoint import load_whole, write_whole

_RATE = 0.03  # of the running accuracies


@dataclass
class Progress:
    """Where a run stands: the stage's name, steps done in it, and running accuracies."""

    stage: str
    step: int = 0
    content: float = 0.0
    answers: float = 0.0
    numbers: float = 0.0
    minutes: float = 0.0

    def record(self, content: float, answers: float, numbers: float) -> None:
        """Take in the shares of one batch; NaN where it asked for no caption, or had no hint."""
        rate = max(_RATE, 1 / (self.step + 1))
        if not math.isnan(content):
            self.content += rate * (content - self.content)
        self.answers += rate * (answers - self.answers)
        if not math.isnan(numbers):
            self.numbers += rate * (numbers - self.numbers)


def save_checkpoint(
    path: Path, progress: Progress, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Keep everything that resuming needs."""
    state = {
        "progress": vars(progress),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    write_whole(state, path)


def load_checkpoint(path: Path) -> tuple[Progress, dict[str, Any], dict[str, Any]] | None:
    """(progress, model state, optimizer state), or None where there is no checkpoint."""
    state = load_whole(path, "progress", "model", "optimizer")
    if state is None:
        return None
    return Progress(**state["progress"]), state["model"], state["optimizer"]
