"""The numbers of the harder target's training, and of its draft's."""

from __future__ import annotations

from dataclasses import replace

from sparrow_kernels.embedded.draft_recipe import DraftRecipe
from sparrow_kernels.embedded.recipe import LanguageStage, Length, Quiz, TargetRecipe, VisionStage

HARDER_RECIPE = TargetRecipe(
    vision=VisionStage(steps=1500),
    language=(
        LanguageStage(
            "short",
            parts=(1, 2),
            lengths=(Length(1, (2, 6), 0.6), Length(2, (2, 4), 0.4)),
            steps=300,
            learning_rate=(1.5e-3, 1.5e-3),
            enough=0.85,
            quiz=0.3,
            hint=0.5,
        ),
        LanguageStage(
            "growing",
            parts=(1, 4),
            lengths=(Length(1, (4, 16), 0.6), Length(2, (4, 12), 0.4)),
            steps=500,
            learning_rate=(1.5e-3, 1.5e-3),
            enough=0.90,
            quiz=0.3,
            hint=0.5,
        ),
        LanguageStage(
            "full",
            parts=(2, 5),
            lengths=(
                Length(1, (7, 60), 0.4),
                Length(2, (8, 40), 0.5),
                Length(4, (7, 12), 0.1),
            ),
            steps=680,
            learning_rate=(1.5e-3, 1.2e-3),
            quiz=0.2,
            hint=0.5,
            crowd=4.0,
        ),
        LanguageStage(
            "long",
            parts=(2, 5),
            lengths=(
                Length(1, (6, 60), 0.38),
                Length(1, (60, 170), 0.08),
                Length(2, (8, 50), 0.38),
                Length(2, (50, 90), 0.04),
                Length(4, (8, 24), 0.08),
                Length(6, (8, 12), 0.02),
                Length(8, (8, 8), 0.02),
            ),
            steps=900,
            learning_rate=(1.2e-3, 1e-5),
            hint=0.3,
            crowd=8.0,
            tokens=1536,
        ),
    ),
    quiz=Quiz(parts=(2, 5)),
)

HARDER_DRAFT_RECIPE = DraftRecipe(clips=replace(DraftRecipe().clips, parts=(2, 5)))
