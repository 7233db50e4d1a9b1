"""The numbers of a draft's training run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sparrow_kernels.drafting.losses import LOSSES, LossWeights
from sparrow_kernels.drafting.text_rows import TextRows


class RowSource(Protocol):
    """Where a run's rows come from."""

    def groups(self, step: int) -> Sequence[TextRows]:
        """This process's rows of a step, in groups of like length. They follow from the step's
        number and the source's seed alone, so that a run that was cut can go on."""


@dataclass(frozen=True)
class Stage:
    """A stretch of a run. The learning rate rises over `warmup` steps, holds, then falls along a
    cosine to 2 % once `hold` of the steps are done.

    Args:
        passes: self-fed passes: 1 trains on the target's states alone, Sparrow's paper has 2, and
            more help trees that are deep.
    """

    steps: int
    learning_rate: float
    passes: int
    weights: LossWeights = LOSSES["soft"]
    warmup: int = 50
    hold: float = 0.3

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        rise = min(1.0, (step + 1) / self.warmup)
        fallen = max(0.0, step / self.steps - self.hold) / (1.0 - self.hold)
        return self.learning_rate * rise * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * fallen)))


@dataclass(frozen=True)
class TrainingPlan:
    """AdamW through some stages, each with rows of its own."""

    stages: tuple[tuple[Stage, RowSource], ...]
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    about: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    """What a run that is gone on with must have had too."""

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage, _ in self.stages)

    def at(self, step: int) -> tuple[Stage, RowSource, int]:
        """The stage of a step, its rows, and the step's number within it."""
        for stage, source in self.stages:
            if step < stage.steps:
                return stage, source, step
            step -= stage.steps
        raise IndexError("the run has no such step")
