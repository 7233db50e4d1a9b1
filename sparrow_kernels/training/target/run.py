"""The whole run, from nothing to a folder that `from_pretrained` loads.

A run that was cut goes on from its last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sparrow_kernels.embedded.recipe import LanguageStage, TargetRecipe, VisionStage
from sparrow_kernels.embedded.worlds import EASY, World
from sparrow_kernels.training.bars import bar
from sparrow_kernels.training.checkpoint import whole_files, write_whole
from sparrow_kernels.training.small_target import HIDDEN, build_processor, build_target
from sparrow_kernels.training.target.clip_features import pool_features
from sparrow_kernels.training.target.language import BatchMaker, language_loss
from sparrow_kernels.training.target.progress import Progress, load_checkpoint, save_checkpoint
from sparrow_kernels.training.target.tile_pool import TilePool, build_tile_pool
from sparrow_kernels.training.target.vision import (
    code_logits,
    code_loss,
    group_accuracy,
    patchify_tiles,
    tile_features,
    world_codes,
)

_BETAS = (0.9, 0.98)
_MAX_GRADIENT_NORM = 1.0
_SECONDS_BETWEEN_CHECKPOINTS = 30.0


class TargetTraining:
    """State of one run: model, optimizer, progress."""

    def __init__(self, folder: Path, recipe: TargetRecipe, seed: int, world: World = EASY) -> None:
        self.folder, self.recipe, self.seed, self.world = folder, recipe, seed, world
        self.processor = build_processor(world)
        self.model = build_target(len(self.processor.tokenizer), recipe.layers, seed)
        self.path = folder / "training.pt"
        self.stages: list[str] = ["vision", *(stage.name for stage in recipe.language), "done"]
        self.progress = Progress(self.stages[0])
        self.optimizer = self._optimizer()

    def resume(self) -> None:
        """Go on from the checkpoint, where there is one."""
        found = load_checkpoint(self.path)
        if found is None:
            return
        self.progress, weights, optimizer = found
        self.model.load_state_dict(weights)
        self.optimizer = self._optimizer()
        self.optimizer.load_state_dict(optimizer)

    def run(self) -> None:
        if self.progress.stage == "done":
            return
        tokenizer = self.processor.tokenizer.backend_tokenizer
        maker = BatchMaker(tokenizer, self._features(), self.seed, self.world)
        for stage in self.recipe.language:
            if stage.name == self.progress.stage:
                self._train_language(stage, maker)

    def save(self, folder: Path) -> None:
        """Weights in fp16, configuration and processor, as `from_pretrained` wants them."""
        folder.mkdir(parents=True, exist_ok=True)
        halved = build_target(len(self.processor.tokenizer), self.recipe.layers)
        halved.load_state_dict(self.model.state_dict())
        if self.world is not EASY:
            halved.config.embedded_world = self.world.name
        with whole_files(folder) as fresh:
            halved.half().save_pretrained(fresh)
            self.processor.save_pretrained(fresh)

    def _features(self) -> Tensor:
        """Features of the tile pool by the trained tower, which is trained here if need be."""
        kept = self.folder / "features.pt"
        if self.progress.stage == "vision" or not kept.exists():
            pool = build_tile_pool(self.seed, self.world)
            if self.progress.stage == "vision":
                self._train_vision(self.recipe.vision, pool)
            write_whole(pool_features(self.model.model.visual, pool), kept)
        return torch.load(kept, weights_only=True)

    def _trained(self) -> list[torch.nn.Parameter]:
        """The vision tower in its own stage, everything else after it."""
        tower = self.progress.stage == "vision"
        self.model.requires_grad_(not tower)
        self.model.model.visual.requires_grad_(tower)
        return [p for p in self.model.parameters() if p.requires_grad]

    def _optimizer(self) -> torch.optim.AdamW:
        parameters = self._trained()
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.01},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=0.0, betas=_BETAS)

    def _steps(self, steps: int) -> Iterator[tuple[int, tqdm]]:
        """Numbers of the steps left in this stage, with checkpoints between them."""
        begun = saved = time.monotonic()
        minutes = self.progress.minutes
        about: dict[str, Any] = {
            "desc": self.progress.stage,
            "unit": "step",
            "initial": self.progress.step,
        }
        with bar(total=steps, logged=True, **about) as shown:
            for step in range(self.progress.step, steps):
                yield step, shown
                shown.update()
                now = time.monotonic()
                self.progress.step = step + 1
                self.progress.minutes = minutes + (now - begun) / 60
                if now - saved > _SECONDS_BETWEEN_CHECKPOINTS:
                    save_checkpoint(self.path, self.progress, self.model, self.optimizer)
                    saved = now

    def _update(self, loss: Tensor, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad()
        loss.backward()
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, _MAX_GRADIENT_NORM)
        self.optimizer.step()

    def _finish_stage(self, keep_optimizer: bool) -> None:
        following = self.stages[self.stages.index(self.progress.stage) + 1]
        self.progress = Progress(following, minutes=self.progress.minutes)
        if not keep_optimizer:
            self.optimizer = self._optimizer()
        save_checkpoint(self.path, self.progress, self.model, self.optimizer)

    def _train_vision(self, stage: VisionStage, pool: TilePool) -> None:
        tower = self.model.model.visual
        codes, _ = world_codes(HIDDEN, self.world)
        for step, shown in self._steps(stage.steps):
            generator = torch.Generator().manual_seed(self.seed * stage.steps + step)
            chosen = torch.randint(len(pool.tiles), (stage.batch,), generator=generator)
            features = tile_features(tower, patchify_tiles(pool.tiles[chosen]))
            logits, labels = code_logits(features, codes, self.world.groups), pool.labels[chosen]
            loss = code_loss(logits, labels)
            rise = min(1.0, (step + 1) / stage.warmup)
            fall = min(1.0, 2.0 * (1.0 - step / stage.steps) + 0.05)
            self._update(loss, stage.learning_rate * rise * fall)
            if step % 10 == 0:
                worst = float(group_accuracy(logits, labels).min())
                shown.set_postfix(refresh=False, loss=f"{loss.item():.3f}", worst=f"{worst:.3f}")
        self._finish_stage(keep_optimizer=False)

    def _train_language(self, stage: LanguageStage, maker: BatchMaker) -> None:
        first, last = stage.learning_rate
        for step, shown in self._steps(stage.steps):
            loss, shares = language_loss(self.model, maker(stage, step), stage.hint)
            warmup = min(1.0, (step + 1) / 50)
            self._update(loss, warmup * (first + (last - first) * step / stage.steps))
            self.progress.record(*shares.tolist())
            if step % 10 == 0:
                shown.set_postfix(
                    refresh=False,
                    loss=f"{loss.item():.3f}",
                    content=f"{self.progress.content:.3f}",
                    answers=f"{self.progress.answers:.3f}",
                    numbers=f"{self.progress.numbers:.3f}",
                )
            worst = min(self.progress.content, self.progress.answers)
            if stage.enough is not None and step > 50 and worst > stage.enough:
                break
        self._finish_stage(keep_optimizer=True)


def train_target(
    out_dir: str | Path,
    resume: bool = True,
    seed: int = 0,
    recipe: TargetRecipe | None = None,
    world: World = EASY,
) -> Path:
    """Train the small target of a world and write it to `out_dir`; returns that folder.

    resume: go on from the checkpoint in `out_dir`, if there is one, instead of starting over.
    recipe: other numbers than the world's own.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    training = TargetTraining(folder, recipe or world.recipe, seed, world)
    if resume:
        training.resume()
    training.run()
    training.save(folder)
    return folder
