"""Trains every system of a seed on the same clips, from one pass of the target a batch."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from bench.ablation.systems import SYSTEMS, System
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.embedded.draft_recipe import DraftRecipe
from sparrow_kernels.embedded.recipe import Length
from sparrow_kernels.training.data.embedded_clips import ClipStates
from sparrow_kernels.training.draft import clip_maker, draft_training, fresh_draft
from sparrow_kernels.training.run import DraftTraining
from sparrow_kernels.training.target.clip_features import pool_features
from sparrow_kernels.training.target.tile_pool import build_tile_pool

_STEPS_BETWEEN_CHECKPOINTS = 25


def recipe(steps: int) -> DraftRecipe:
    """The package's own, with some clips of up to 8k visual tokens: who sees clips must not be
    surprised by a length that others never look at."""
    usual = DraftRecipe()
    lengths = (*usual.clips.lengths, Length(6, (40, 56), 0.03))
    return replace(usual, steps=steps, clips=replace(usual.clips, lengths=lengths))


def folder_of(root: Path, seed: int, system: System) -> Path:
    """Where a draft and its checkpoint are."""
    name = system.name.lower().replace("+", "and").replace(" ", "-")
    return root / f"seed-{seed}" / name


def drafts_mark(root: Path) -> str:
    """Says which drafts there are: trained again they have another."""
    digest = hashlib.sha256()
    for path in sorted(root.glob("seed-*/*/training.pt")):
        digest.update(str(path.relative_to(root)).encode())
        state = torch.load(path, weights_only=True, map_location="cpu")
        for value in state["draft"].values():
            digest.update(value.numpy().tobytes())
    return digest.hexdigest()[:16]


def features_of(target: Any, root: Path) -> Tensor:
    """The target's features of the tile pool, kept: they take two minutes."""
    path = root / "features.pt"
    if not path.exists():
        root.mkdir(parents=True, exist_ok=True)
        torch.save(pool_features(target.model.visual, build_tile_pool(0)), path)
    features: Tensor = torch.load(path, weights_only=True)
    return features


def train_seed(target: Any, processor: Any, root: Path, seed: int, steps: int) -> None:
    """Every system's draft; what was trained already is left as it is."""
    numbers = recipe(steps)
    drafts = [
        fresh_draft(target, system.mode, numbers, seed, **system.settings) for system in SYSTEMS
    ]
    maker = clip_maker(target, processor, seed, features_of(target, root.parent))
    rules = [draft.config.row_rules() for draft in drafts]
    states = ClipStates(target, maker, numbers.clips, rules)
    runs = []
    for system, draft in zip(SYSTEMS, drafts, strict=True):
        folder = folder_of(root, seed, system)
        folder.mkdir(parents=True, exist_ok=True)
        about: dict[str, Any] = {"system": system.name, "seed": seed, "steps": steps}
        run = draft_training(
            target, draft, states, folder, numbers, passes=system.passes, about=about
        )
        run.resume()
        runs.append(run)
    _take_steps(runs, steps, f"seed {seed}")


def _take_steps(runs: list[DraftTraining], steps: int, label: str) -> None:
    """Step by step, all runs through the same clips."""
    first = min(run.progress.step for run in runs)
    for step in tqdm(range(first, steps), desc=label, initial=first, total=steps, unit="step"):
        for run in runs:
            if run.progress.step == step:
                run.progress.record(step, run.step(step))
                if (step + 1) % _STEPS_BETWEEN_CHECKPOINTS == 0 or step + 1 == steps:
                    run.save()


def trained(target: Any, root: Path, seed: int, system: System) -> SparrowDraft:
    """A draft as its run left it, in float32, seeing what it was trained to see."""
    numbers = recipe(1)
    draft = fresh_draft(target, system.mode, numbers, seed, **system.settings)
    path = folder_of(root, seed, system) / "training.pt"
    state = torch.load(path, weights_only=True, map_location="cpu")
    draft.load_state_dict(state["draft"])
    return draft.eval().requires_grad_(False)
