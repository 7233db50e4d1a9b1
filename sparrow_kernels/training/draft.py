"""The training run that joins the embedded target and a draft.

    python -m sparrow_kernels.training.draft TARGET_DIR OUT_DIR [--seed 0] [--fresh]

A run that was cut goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.drafting.losses import LossWeights
from sparrow_kernels.drafting.modes import MODES
from sparrow_kernels.drafting.training_step import StepResult, training_step
from sparrow_kernels.embedded.draft_recipe import DraftRecipe
from sparrow_kernels.models.pair import load_target
from sparrow_kernels.training.draft_rows import text_rows
from sparrow_kernels.training.target.checkpoint import write_whole
from sparrow_kernels.training.target.clip_features import pool_features
from sparrow_kernels.training.target.language import BatchMaker
from sparrow_kernels.training.target.tile_pool import build_tile_pool

_SECONDS_BETWEEN_CHECKPOINTS = 30.0
_SMOOTHING = 0.97
# Clips of the draft's training; the target's own come from seeds below.
_SEED_OFFSET = 1_000_000


@dataclass
class Progress:
    """Steps done, minutes they took, and the running estimate of tokens a target call."""

    step: int = 0
    minutes: float = 0.0
    mean_emitted: float = 0.0


class DraftTraining:
    """State of one run: draft, optimizer, progress."""

    def __init__(
        self,
        target: Any,
        maker: BatchMaker,
        folder: Path,
        recipe: DraftRecipe,
        seed: int,
        mode: str = "sparrow",
    ) -> None:
        self.recipe, self._mode_name, self._mode = recipe, mode, MODES[mode]
        self.path = folder / "training.pt"
        self.progress = Progress()
        self._target = target.eval().requires_grad_(False)
        self._maker = maker
        torch.manual_seed(seed)
        settings = self._mode.settings_for(target.config.get_text_config().num_hidden_layers)
        self.draft = SparrowDraft.for_target(target, tree=recipe.tree, **settings).float()
        matrices = [p for p in self.draft.parameters() if p.ndim >= 2]
        vectors = [p for p in self.draft.parameters() if p.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=0.0, betas=recipe.betas)

    def resume(self) -> None:
        """Go on from the checkpoint, where there is one."""
        if not self.path.exists():
            return
        state = torch.load(self.path, weights_only=True)
        if state.get("mode", "sparrow") != self._mode_name:
            raise ValueError(
                f"{self.path} must be of a draft like {self._mode_name}, got one like"
                f" {state.get('mode', 'sparrow')} (another --out, or --fresh)"
            )
        self.progress = Progress(**state["progress"])
        self.draft.load_state_dict(state["draft"])
        self._optimizer.load_state_dict(state["optimizer"])

    def save(self) -> None:
        """Keep everything that resuming needs."""
        state = {
            "mode": self._mode_name,
            "progress": vars(self.progress),
            "draft": self.draft.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        write_whole(state, self.path)

    def run(self) -> None:
        """The steps that are left."""
        progress, steps = self.progress, self.recipe.steps
        begun = saved = time.monotonic()
        minutes = progress.minutes
        with tqdm(total=steps, initial=progress.step, desc="draft", unit="step") as bar:
            for step in range(progress.step, steps):
                result = self.step(step)
                emitted = float(result.mean_emitted)
                smoothing = min(_SMOOTHING, 1 - 1 / (step + 1))
                progress.mean_emitted += (1 - smoothing) * (emitted - progress.mean_emitted)
                progress.step = step + 1
                now = time.monotonic()
                progress.minutes = minutes + (now - begun) / 60
                if step % 10 == 0:
                    bar.set_postfix(
                        loss=f"{float(result.loss):.3f}", emitted=f"{progress.mean_emitted:.2f}"
                    )
                bar.update()
                if now - saved > _SECONDS_BETWEEN_CHECKPOINTS or step + 1 == steps:
                    self.save()
                    saved = now

    def step(self, step: int) -> StepResult:
        """One step; its clips depend on the seed and `step` alone."""
        recipe, config = self.recipe, self.draft.config
        rules = config.row_rules()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        return training_step(
            self.draft.network,
            self._optimizer,
            self._target.get_input_embeddings(),
            self._target.lm_head,
            text_rows(self._target, self._maker(recipe.clips, step), rules),
            passes=self._mode.passes or recipe.passes,
            weights=LossWeights(
                soft_cross_entropy=recipe.soft_cross_entropy,
                # Of layers that feed side by side the output is not the target's top state.
                smooth_l1=0.0 if config.paired else recipe.smooth_l1,
                pass_decay=recipe.pass_decay,
            ),
            theta=config.rope_theta,
            clip_norm=recipe.clip_norm,
            sees_clip=config.sees_clip,
        )


def learning_rate(recipe: DraftRecipe, step: int) -> float:
    """Linear rise over `warmup` steps, then the highest, then a cosine down to 2 % of it."""
    rise = min(1.0, (step + 1) / recipe.warmup)
    fallen = max(0.0, step / recipe.steps - recipe.hold) / (1.0 - recipe.hold)
    return recipe.learning_rate * rise * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * fallen)))


def train_draft(
    target: Any,
    processor: Any,
    out_dir: str | Path,
    *,
    resume: bool = True,
    seed: int = 0,
    recipe: DraftRecipe | None = None,
    features: Tensor | None = None,
    mode: str = "sparrow",
) -> Path:
    """Train a draft for the small target and write it to `out_dir`; returns that folder.

    Args:
        target: the trained small target in float32; its weights stay as they are.
        processor: the target's own.
        resume: go on from the checkpoint in `out_dir`, if there is one, instead of starting over.
        seed: of the draft's first weights and of the clips it is trained on.
        recipe: other numbers than the package's own.
        features: the target's features of the tile pool (`pool_features`), where they are at
            hand; drawing, encoding and running them takes a minute or two.
        mode: which system's draft, of `drafting.modes.MODES`. It is saved with the clip out of its
            sight; `sees_clip="trained"` puts it back.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if features is None:
        features = pool_features(target.model.visual, build_tile_pool(seed))
    maker = BatchMaker(processor.tokenizer.backend_tokenizer, features, seed + _SEED_OFFSET)
    training = DraftTraining(target, maker, folder, recipe or DraftRecipe(), seed, mode)
    if resume:
        training.resume()
    training.run()
    training.draft.config.sees_clip = "nothing"
    training.draft.half().save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a draft for the small target.")
    parser.add_argument("target_dir")
    parser.add_argument("out_dir")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mode", choices=tuple(MODES), default="sparrow", help="default: sparrow")
    parser.add_argument("--steps", type=int, help="default: the recipe's")
    parser.add_argument("--fresh", action="store_true", help="ignore a checkpoint in OUT_DIR")
    arguments = parser.parse_args()
    recipe = DraftRecipe()
    train_draft(
        *load_target(arguments.target_dir),
        arguments.out_dir,
        resume=not arguments.fresh,
        seed=arguments.seed,
        recipe=replace(recipe, steps=arguments.steps or recipe.steps),
        mode=arguments.mode,
    )


if __name__ == "__main__":
    main()
