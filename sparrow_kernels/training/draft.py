"""A draft for the small target, on clips that the package draws itself.

A run that was cut goes on from its last checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.drafting.losses import LossWeights
from sparrow_kernels.drafting.modes import MODES
from sparrow_kernels.embedded.draft_recipe import DraftRecipe
from sparrow_kernels.embedded.worlds import world_of
from sparrow_kernels.training.checkpoint import whole_files
from sparrow_kernels.training.data.embedded_clips import ClipStates, EmbeddedClips
from sparrow_kernels.training.plan import Stage, TrainingPlan
from sparrow_kernels.training.run import DraftTraining
from sparrow_kernels.training.target.clip_features import pool_features
from sparrow_kernels.training.target.language import BatchMaker
from sparrow_kernels.training.target.tile_pool import build_tile_pool
from sparrow_kernels.training.workers import Workers

# Clips of the draft's training; the target's own come from seeds below.
_SEED_OFFSET = 1_000_000


def clip_maker(
    target: Any, processor: Any, seed: int = 0, features: Tensor | None = None
) -> BatchMaker:
    """Draws the clips that drafts are trained on; for its arguments see `train_draft`."""
    world = world_of(target)
    if features is None:
        features = pool_features(target.model.visual, build_tile_pool(seed, world))
    return BatchMaker(processor.tokenizer.backend_tokenizer, features, seed + _SEED_OFFSET, world)


def fresh_draft(
    target: Any, mode: str, recipe: DraftRecipe, seed: int = 0, **settings: Any
) -> SparrowDraft:
    """A draft to be trained, in float32; `settings` are of `SparrowDraftConfig`."""
    layers = target.config.get_text_config().num_hidden_layers
    torch.manual_seed(seed)
    asked = {**MODES[mode].settings_for(layers), "tree": recipe.tree, **settings}
    return SparrowDraft.for_target(target, **asked).float()


def draft_training(
    target: Any,
    draft: SparrowDraft,
    states: ClipStates,
    folder: Path,
    recipe: DraftRecipe,
    *,
    passes: int,
    about: dict[str, str | int | float | bool | None],
    workers: Workers | None = None,
) -> DraftTraining:
    """The run of one draft, not begun. `about` is what a run that is gone on with must share."""
    target.eval().requires_grad_(False)
    workers = workers or Workers()
    stage = Stage(
        recipe.steps,
        recipe.learning_rate,
        passes,
        LossWeights(
            soft_cross_entropy=recipe.soft_cross_entropy,
            # Of layers that feed side by side the output is not the target's top state.
            smooth_l1=0.0 if draft.config.paired else recipe.smooth_l1,
            pass_decay=recipe.pass_decay,
        ),
        recipe.warmup,
        recipe.hold,
    )
    source = EmbeddedClips(states, draft.config.row_rules(), workers.share)
    plan = TrainingPlan(
        ((stage, source),), recipe.betas, recipe.weight_decay, recipe.clip_norm, about
    )
    heads = target.get_input_embeddings(), target.get_output_embeddings()
    return DraftTraining(draft, *heads, plan, folder, workers=workers)


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
    sees_clip: str | None = None,
    workers: Workers | None = None,
) -> Path:
    """Train a draft for the small target and write it to `out_dir`; returns that folder.

    Args:
        target: the trained small target in float32; its weights stay as they are.
        processor: the target's own.
        resume: go on from the checkpoint in `out_dir`, if there is one, instead of starting over.
        seed: of the draft's first weights and of the clips it is trained on.
        recipe: other numbers than those of the target's world.
        features: the target's features of the tile pool (`pool_features`), where they are at
            hand; drawing, encoding and running them takes a minute or two.
        mode: which system's draft, of `drafting.modes.MODES`. It is saved with the clip out of its
            sight; `sees_clip="trained"` puts it back.
        sees_clip: what it is trained to see of a clip, where that is not what the system does.
        workers: the processes that share the work.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    workers = workers or Workers()
    recipe = recipe or world_of(target).draft_recipe
    seen = {} if sees_clip is None else {"sees_clip": sees_clip, "trained_to_see": sees_clip}
    draft = fresh_draft(target, mode, recipe, seed, **seen)
    maker = clip_maker(target, processor, seed, features)
    training = draft_training(
        target,
        draft,
        ClipStates(target, maker, recipe.clips, [draft.config.row_rules()]),
        folder,
        recipe,
        passes=MODES[mode].passes or recipe.passes,
        about={"mode": mode, "sees_clip": draft.config.trained_to_see, "seed": seed},
        workers=workers,
    )
    if resume:
        training.resume()
    training.run()
    if workers.is_first:
        write_draft(draft, folder)
    return folder


def write_draft(draft: SparrowDraft, folder: Path) -> None:
    """Save a trained draft, in float16 and with the clip out of its sight."""
    draft.config.sees_clip = "nothing"
    with whole_files(folder) as fresh:
        draft.half().save_pretrained(fresh)
