"""A draft for any target, from dialogues: what `sparrow train draft --data` runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from sparrow_kernels._version import __version__
from sparrow_kernels.decoding import TreeConfig
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.drafting.head import frequent_ids
from sparrow_kernels.drafting.losses import LOSSES
from sparrow_kernels.drafting.modes import MODES
from sparrow_kernels.drafting.rows import RowRules
from sparrow_kernels.training.card import write_card
from sparrow_kernels.training.checkpoint import whole_files
from sparrow_kernels.training.data.cache import StateCache, weights_mark
from sparrow_kernels.training.data.dialogue_rows import DialogueRows
from sparrow_kernels.training.data.dialogues import DataError, Dialogue
from sparrow_kernels.training.data.encoding import Encoder
from sparrow_kernels.training.held_out import HeldOutTexts
from sparrow_kernels.training.history import draw
from sparrow_kernels.training.plan import Stage, TrainingPlan
from sparrow_kernels.training.run import DraftTraining, HeldOut
from sparrow_kernels.training.workers import Workers

_RATE_TIMES_WIDTH = 0.384


@dataclass(frozen=True)
class TrainingSettings:
    """What a run is asked for.

    Args:
        mode: which system's draft, of `drafting.modes.MODES`.
        sees_clip: what it is trained to see of a clip; None for what the system does. "middle" is
            Sparrow's bridge: states of half the depth.
        steps, text_steps: optimizer steps on all dialogues, and before them on texts alone.
        batch: dialogues of a step.
        rows_at_once: most rows that go through the draft together.
        passes: self-fed passes; None for what the system does.
        loss, text_loss: of `drafting.losses.LOSSES`, of the two stages.
        learning_rate: the highest; None for 0.384 / hidden size, which is 3e-3 for a width of 128
            and 1.1e-4 for one of 3584.
        draft_vocabulary: so many of the ids that answers hold most often get an LM head of the
            draft's own, which begins as those rows of the target's; None for the target's head.
        held_out: dialogues that are not trained on, and on whose prompts the draft is measured.
        measure_every: steps between two measurements.
        measured_tokens: the most new tokens of a measured answer.
        cache_bytes: of states on disk.
        tree: the draft's own default, as in "30-4-8".
    """

    mode: str = "sparrow"
    sees_clip: str | None = None
    steps: int = 2000
    text_steps: int = 0
    batch: int = 16
    rows_at_once: int = 4096
    passes: int | None = None
    loss: str = "soft"
    text_loss: str = "soft"
    learning_rate: float | None = None
    draft_vocabulary: int | None = None
    held_out: int = 8
    measure_every: int = 200
    measured_tokens: int = 128
    cache_bytes: float = 0.0
    tree: str | None = None
    seed: int = 0


class DialogueTraining:
    """Everything of a run but the command line.

    Args:
        target: frozen; in the dtype and on the device that it is to run in.
        encoder: for its dialogues.
        dialogues: of the main stage, clips or not.
        texts: of the first stage; None for the dialogues without a clip.
        folder: where the draft, its checkpoint and its card are written.
        autocast: what the draft's products run in.
        on_wrong: called for a dialogue that cannot be used, which is then left out; None raises.
        warn: told of what does not stop a run.
    """

    def __init__(
        self,
        target: Any,
        encoder: Encoder,
        dialogues: Sequence[Dialogue],
        folder: Path,
        settings: TrainingSettings,
        *,
        texts: Sequence[Dialogue] | None = None,
        workers: Workers | None = None,
        autocast: torch.dtype | None = None,
        on_wrong: Callable[[DataError], None] | None = None,
        warn: Callable[[str], None] = print,
    ) -> None:
        self._target, self._encoder, self._folder = target, encoder, folder
        self._settings, self._workers = settings, workers or Workers()
        self._autocast, self._on_wrong, self._warn = autocast, on_wrong, warn
        target.eval().requires_grad_(False)
        held_out = settings.held_out
        if held_out and len(dialogues) <= held_out:
            raise ValueError(
                f"data must hold more than the {held_out} dialogues that are held out, got"
                f" {len(dialogues)} (--held-out 0 measures nothing)"
            )
        self._held_out = list(dialogues[:held_out])
        self._dialogues = list(dialogues[held_out:])
        self._texts = [each for each in self._dialogues if not each.media]
        if texts is not None:
            self._texts = list(texts)
        if settings.text_steps and not self._texts:
            raise ValueError("data must hold a dialogue without a clip for a first stage on texts")
        self._mark = weights_mark(target)
        self._cache: StateCache | None = None
        self.draft = self._fresh_draft()

    def run(self, resume: bool = True) -> Path:
        """Train, and write the draft; returns its folder."""
        self._folder.mkdir(parents=True, exist_ok=True)
        held_out = None
        if self._held_out and self._workers.is_first:
            texts = HeldOutTexts(
                self._target,
                self.draft,
                self._encoder,
                self._held_out,
                self._settings.measured_tokens,
                self._on_wrong,
            )
            held_out = HeldOut(self._settings.measure_every, texts.mean_emitted)
        training = DraftTraining(
            self.draft,
            self._target.get_input_embeddings(),
            self._target.get_output_embeddings(),
            self._plan(),
            self._folder,
            workers=self._workers,
            held_out=held_out,
            autocast=self._autocast,
        )
        if resume:
            training.resume()
        training.run()
        if self._workers.is_first:
            self._write(training)
        return self._folder

    def _fresh_draft(self) -> SparrowDraft:
        settings = self._settings
        mode = MODES[settings.mode]
        text_config = self._target.config.get_text_config()
        asked: dict[str, Any] = mode.settings_for(text_config.num_hidden_layers)
        if settings.sees_clip is not None:
            asked |= {"sees_clip": settings.sees_clip, "trained_to_see": settings.sees_clip}
        if settings.tree is not None:
            asked["tree"] = _keywords(TreeConfig.parse(settings.tree))
        ids: list[int] = []
        if settings.draft_vocabulary is not None:
            ids = self._frequent_ids(settings.draft_vocabulary)
            asked["draft_vocab_size"] = len(ids)
        torch.manual_seed(settings.seed)
        draft = SparrowDraft.for_target(self._target, **asked).float()
        if ids:
            chosen = torch.tensor(ids, device=draft.device)
            head: Any = self._target.get_output_embeddings()
            draft.network.draft_ids.copy_(chosen)
            draft.network.head.weight.data.copy_(head.weight[chosen])
        return draft

    def _frequent_ids(self, size: int) -> list[int]:
        known = []
        for dialogue in [*self._texts, *(each for each in self._dialogues if each.media)]:
            try:
                known.append(self._encoder.answer_ids(dialogue))
            except DataError:
                continue  # it is told of when its turn comes
        ids = frequent_ids(known, size)
        # Where answers hold fewer, the lowest ids fill up: tokenizers number by frequency.
        said, every = set(ids), range(self._target.config.get_text_config().vocab_size)
        others = (each for each in every if each not in said)
        return sorted([*ids, *islice(others, size - len(ids))])

    def _plan(self) -> TrainingPlan:
        settings, rules = self._settings, self.draft.config.row_rules()
        passes = settings.passes or MODES[settings.mode].passes or 5
        rate = settings.learning_rate or _RATE_TIMES_WIDTH / self.draft.config.hidden_size
        stages = []
        self._cache = self._state_cache(rules)
        for steps, dialogues, loss in (
            (settings.text_steps, self._texts, settings.text_loss),
            (settings.steps, self._dialogues, settings.loss),
        ):
            if steps:
                weights = LOSSES[loss]
                if self.draft.config.paired:  # whose output is not the target's top state
                    weights = replace(weights, smooth_l1=0.0)
                stage = Stage(steps, rate, passes, weights, warmup=max(1, min(50, steps // 5)))
                stages.append((stage, self._rows(dialogues, rules)))
        about: dict[str, str | int | float | bool | None] = {
            "target": self._mark,
            "mode": settings.mode,
            "sees_clip": self.draft.config.trained_to_see,
            "passes": passes,
            "loss": settings.loss,
            "text_loss": settings.text_loss,
            "learning_rate": rate,
            "batch": settings.batch,
            "dialogues": _digest(self._dialogues, self._texts, self._encoder),
            "draft_vocabulary": settings.draft_vocabulary,
            "text_steps": settings.text_steps,
            "seed": settings.seed,
        }
        return TrainingPlan(tuple(stages), about=about)

    def _state_cache(self, rules: RowRules) -> StateCache | None:
        settings = self._settings
        if not settings.cache_bytes:
            return None
        return StateCache(
            self._folder / "states",
            settings.cache_bytes,
            f"{__version__} {self._mark} {rules} {self._encoder.about}",
            self._warn,
            self._workers.count,
        )

    def _rows(self, dialogues: Sequence[Dialogue], rules: RowRules) -> DialogueRows:
        settings = self._settings
        return DialogueRows(
            self._target,
            self._encoder,
            dialogues,
            rules,
            batch=settings.batch,
            rows_at_once=settings.rows_at_once,
            seed=settings.seed,
            share=self._workers.share,
            cache=self._cache,
            on_wrong=self._on_wrong,
        )

    def _write(self, training: DraftTraining) -> None:
        self.draft.config.sees_clip = "nothing"
        dtype = self._target.dtype
        saved = self.draft.to(torch.float16 if dtype == torch.float32 else dtype)  # type: ignore[arg-type]
        with whole_files(self._folder) as fresh:
            saved.save_pretrained(fresh)
        history = training.progress.history
        if not draw(history, self._folder / "training.png"):
            self._warn("training.png is left out: matplotlib is not installed")
        facts = asdict(self._settings)
        write_card(self._folder, self._target, self.draft, training.progress, facts)


def _keywords(tree: TreeConfig) -> dict[str, Any]:
    """Those that make this tree again."""
    if tree.branching is not None:
        return {"branching": list(tree.branching)}
    sizes = {"total": tree.total, "depth": tree.depth, "width": tree.width}
    return sizes | ({"marginals": True} if tree.marginals else {})


def _digest(dialogues: Sequence[Dialogue], texts: Sequence[Dialogue], encoder: Encoder) -> str:
    """Says which dialogues there are, and how they are encoded."""
    digest = hashlib.sha256(encoder.about.encode())
    for each in (*dialogues, *texts):
        digest.update(each.mark.encode())
    return digest.hexdigest()[:16]
