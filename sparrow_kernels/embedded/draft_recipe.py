"""The numbers of the draft's training: passes, losses, clip lengths, learning rate."""

from __future__ import annotations

from dataclasses import dataclass, field

from sparrow_kernels.embedded.recipe import LanguageStage, Length


@dataclass(frozen=True)
class DraftRecipe:
    """AdamW over batches of clips of one shape; the learning rate rises, holds, then falls.

    Args:
        clips: the clips of a batch. Mostly short ones: the draft never sees a clip, only the
            target's text states after it, and those cost the target's prefill.
        steps: optimizer steps.
        learning_rate: the highest. It falls along a cosine once `hold` of the steps are done.
        warmup: steps of linear rise.
        passes: self-fed passes, as many as the default chain drafts tokens.
        soft_cross_entropy, smooth_l1, pass_decay: weights as in `drafting.losses.LossWeights`.
        tree: the default tree, a chain of five: on a CPU wider trees cost more than they gain.
    """

    clips: LanguageStage = field(
        default_factory=lambda: LanguageStage(
            "draft",
            parts=(3, 7),
            lengths=(
                Length(1, (7, 32), 0.70),
                Length(2, (8, 32), 0.22),
                Length(4, (8, 20), 0.05),
                Length(4, (32, 64), 0.03),
            ),
            steps=0,
            learning_rate=(0.0, 0.0),
            tokens=2048,
            most_clips=8,
        )
    )
    steps: int = 900
    learning_rate: float = 3e-3
    warmup: int = 50
    hold: float = 0.3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    passes: int = 5
    soft_cross_entropy: float = 1.0
    smooth_l1: float = 0.1
    pass_decay: float = 0.9
    tree: dict[str, int] = field(default_factory=lambda: {"total": 6, "depth": 5, "width": 1})
