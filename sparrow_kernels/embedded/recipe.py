"""The numbers of the target's training: stages, lengths, learning rates."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class VisionStage:
    """The vision tower against fixed codes. The learning rate falls linearly in the last half."""

    steps: int = 1000
    batch: int = 256
    learning_rate: float = 2.5e-3
    warmup: int = 100


@dataclass(frozen=True)
class Length:
    """A shape of clip: edge of the wall in tiles, seconds (lowest, highest), and its share."""

    tiles: int
    seconds: tuple[int, int]
    share: float


@dataclass(frozen=True)
class LanguageStage:
    """Captions and questions over a frozen vision tower.

    The learning rate goes linearly from `learning_rate[0]` to `learning_rate[1]` over `steps`. A
    stage with `enough` ends early, once the running content accuracy of its captions reaches it.
    """

    name: str
    parts: tuple[int, int]
    lengths: tuple[Length, ...]
    steps: int
    learning_rate: tuple[float, float]
    enough: float | None = None
    questions: int = 1  # of each kind, about each clip
    quiz: float = 0.0  # share of batches without captions, see `Quiz`
    hint: float = 0.0  # weight of the parts' hint, see `training.target.hint`
    crowd: float = 1.0  # visual tokens stand for up to so many copies of themselves
    # Visual tokens of a batch; the batch is as large as they allow, up to `most_clips`.
    tokens: int = 2048
    most_clips: int = 16


@dataclass(frozen=True)
class Quiz:
    """Asks about clips of many parts while captions still grow.

    Else the model learns to tell part one from part two instead of looking up the part that a
    question names.
    """

    parts: tuple[int, int] = (2, 7)
    lengths: tuple[Length, ...] = (Length(1, (7, 24), 0.7), Length(2, (7, 12), 0.3))
    questions: int = 3


@dataclass(frozen=True)
class TargetRecipe:
    """All of it, in order."""

    layers: int = 8
    vision: VisionStage = field(default_factory=VisionStage)
    language: tuple[LanguageStage, ...] = (
        LanguageStage(
            "short",
            parts=(1, 2),
            lengths=(Length(1, (2, 6), 0.6), Length(2, (2, 4), 0.4)),
            steps=250,
            learning_rate=(1.5e-3, 1.5e-3),
            enough=0.85,
            quiz=0.4,
        ),
        LanguageStage(
            "growing",
            parts=(1, 4),
            lengths=(Length(1, (4, 16), 0.6), Length(2, (4, 12), 0.4)),
            steps=200,
            learning_rate=(1.5e-3, 1.5e-3),
            enough=0.90,
            quiz=0.4,
        ),
        LanguageStage(
            "full",
            parts=(2, 7),
            lengths=(
                Length(1, (7, 60), 0.4),
                Length(2, (8, 40), 0.5),
                Length(4, (7, 12), 0.1),
            ),
            steps=500,
            learning_rate=(1.5e-3, 6e-4),
            questions=2,
            quiz=0.15,
            crowd=4.0,
        ),
        LanguageStage(
            "long",
            parts=(3, 7),
            lengths=(
                Length(1, (16, 170), 0.2),
                Length(2, (20, 50), 0.44),
                Length(2, (50, 170), 0.12),
                Length(4, (12, 64), 0.16),
                Length(6, (10, 29), 0.08),
            ),
            steps=450,
            learning_rate=(6e-4, 1e-5),
            questions=2,
            crowd=16.0,
        ),
    )
    quiz: Quiz = field(default_factory=Quiz)
