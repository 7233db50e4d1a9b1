"""A draft's training run: its steps, its checkpoints, and what it shows of itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.drafting.text_rows import TextRows
from sparrow_kernels.drafting.training_step import StepResult, training_step
from sparrow_kernels.training.bars import bar
from sparrow_kernels.training.checkpoint import load_whole, write_whole
from sparrow_kernels.training.history import COLUMNS, Entry, write_csv
from sparrow_kernels.training.plan import RowSource, TrainingPlan
from sparrow_kernels.training.workers import Workers

_SECONDS_BETWEEN_CHECKPOINTS = 30.0
_SMOOTHING = 0.97
_STEPS_BETWEEN_ENTRIES = 10
# What a checkpoint knows by a digest, which tells nobody anything.
_OTHER = {
    "target": "of another target, or the same in another dtype",
    "dialogues": "of other dialogues, or the same with another --fps or --max-length",
}


@dataclass
class Progress:
    """Steps done, minutes they took, and running estimates."""

    step: int = 0
    minutes: float = 0.0
    loss: float = 0.0
    mean_emitted: float = 0.0
    history: list[Entry] = field(default_factory=list)

    def record(self, step: int, result: StepResult) -> None:
        """Take in what a step has given."""
        smoothing = min(_SMOOTHING, 1 - 1 / (step + 1))
        self.loss += (1 - smoothing) * (float(result.loss) - self.loss)
        self.mean_emitted += (1 - smoothing) * (float(result.mean_emitted) - self.mean_emitted)
        self.step = step + 1


@dataclass
class HeldOut:
    """What is measured as a run goes."""

    every: int
    """Steps between measurements."""
    measure: Callable[[SparrowDraft], float | None]
    """Tokens that a target call emits with this draft; None where there is no text."""


class DraftTraining:
    """State of one run: draft, optimizer, progress.

    Args:
        draft: in float32; its weights are trained in place.
        embedding, lm_head: the target's, which stay as they are.
        autocast: what products run in, None for the weights' own dtype.
    """

    def __init__(
        self,
        draft: SparrowDraft,
        embedding: nn.Module,
        lm_head: nn.Module,
        plan: TrainingPlan,
        folder: Path,
        *,
        workers: Workers | None = None,
        held_out: HeldOut | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.draft, self.plan, self.progress = draft, plan, Progress()
        self.path = folder / "training.pt"
        self._embedding, self._lm_head = embedding, lm_head
        self._workers, self._held_out, self._autocast = workers or Workers(), held_out, autocast
        matrices = [p for p in draft.parameters() if p.ndim >= 2]
        vectors = [p for p in draft.parameters() if p.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": plan.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=0.0, betas=plan.betas)

    def resume(self) -> None:
        """Go on from the checkpoint, where there is one.

        Raises:
            ValueError: it is damaged, or of a run that was asked for otherwise.
        """
        state = load_whole(self.path, "about", "progress", "draft", "optimizer")
        begun = torch.tensor([0.0 if state is None else state["progress"]["step"]])
        own = float(begun)
        self._workers.add_up(begun)
        if float(begun) != own * self._workers.count:
            raise ValueError(
                f"{self.path} must be the same for all processes (a folder that they share)"
            )
        if state is None:
            return
        about = state["about"]
        wanted = self.plan.about
        other = [name for name in wanted if about.get(name) != wanted[name]]
        if other:
            raise ValueError(
                f"{self.path} must be of the run asked for, got one"
                f" {', '.join(_differs(name, about.get(name), wanted[name]) for name in other)}"
                " (another --out keeps both, --fresh starts over in this one)"
            )
        self.progress = Progress(**state["progress"])
        self.draft.load_state_dict(state["draft"])
        self._optimizer.load_state_dict(state["optimizer"])

    def save(self) -> None:
        """Keep everything that resuming needs."""
        if not self._workers.is_first:
            return
        state = {
            "about": self.plan.about,
            "progress": vars(self.progress),
            "draft": self.draft.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        write_whole(state, self.path)
        write_csv(self.progress.history, self.path.with_name("training.csv"))

    def run(self) -> None:
        """The steps that are left."""
        progress, steps = self.progress, self.plan.steps
        begun = saved = time.monotonic()
        minutes, took = progress.minutes, 0.0
        about: dict[str, Any] = {"initial": progress.step, "disable": not self._workers.is_first}
        with bar(total=steps, logged=True, desc="draft", unit="step", **about) as shown:
            for step in range(progress.step, steps):
                progress.record(step, self.step(step))
                now = time.monotonic()
                progress.minutes = minutes + (now - begun) / 60
                is_last = step + 1 == steps
                self._note(step, is_last)
                if step % _STEPS_BETWEEN_ENTRIES == 0:
                    shown.set_postfix(
                        refresh=False,
                        loss=f"{progress.loss:.3f}",
                        emitted=f"{progress.mean_emitted:.2f}",
                    )
                shown.update()
                if now - saved > _SECONDS_BETWEEN_CHECKPOINTS * max(1.0, took) or is_last:
                    self.save()
                    saved = time.monotonic()
                    took = saved - now

    def step(self, step: int) -> StepResult:
        """One step; its rows depend on the seed and `step` alone."""
        stage, source, number = self.plan.at(step)
        config = self.draft.config
        for group in self._optimizer.param_groups:
            group["lr"] = stage.rate(number)
        groups = self._groups(source, number)
        device = self._workers.device
        return training_step(
            self.draft.network,
            self._optimizer,
            self._embedding,
            self._lm_head,
            [rows.to(device) for rows in groups],
            passes=stage.passes,
            weights=stage.weights,
            theta=config.rope_theta,
            clip_norm=self.plan.clip_norm,
            sees_clip=config.sees_clip,
            autocast=self._autocast,
            add_up=self._workers.add_up,
        )

    def _groups(self, source: RowSource, number: int) -> Sequence[TextRows]:
        """A step's rows. Where a process cannot make its own, all end; what was learnt is kept."""
        failed: BaseException | None = None
        groups: Sequence[TextRows] = ()
        try:
            groups = source.groups(number)
        except BaseException as error:
            failed = error
        if not self._workers.any(failed is not None):
            return groups
        self.save()
        raise failed or RuntimeError("another process cannot go on; it says why")

    def _note(self, step: int, is_last: bool) -> None:
        """An entry of the history, where one is due."""
        held_out: float | None = None
        asked = self._held_out
        is_due = asked is not None and (is_last or (step + 1) % asked.every == 0)
        if asked is not None and is_due and self._workers.is_first:
            held_out = asked.measure(self.draft)
        if held_out is None and not is_last and (step + 1) % _STEPS_BETWEEN_ENTRIES:
            return
        stage, _, number = self.plan.at(step)
        values: list[Any] = [step + 1, self.progress.loss, stage.rate(number)]
        values += [self.progress.mean_emitted, held_out]
        self.progress.history.append(dict(zip(COLUMNS, values, strict=True)))


def _differs(name: str, got: object, wanted: object) -> str:
    """What another run has another of."""
    return _OTHER.get(name) or f"with {name.replace('_', ' ')} {got} and not {wanted}"
