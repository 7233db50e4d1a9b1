"""The drafts that are compared: what each sees of a clip, and in how many passes it is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sparrow_kernels.drafting.modes import MODES


@dataclass(frozen=True)
class System:
    """One draft.

    Args:
        name: as tables have it.
        passes: self-fed passes of its training; more than one is MTP.
        mode: whose layer, of `drafting.modes.MODES`.
        settings: keywords of `SparrowDraftConfig` beside those of the mode.
    """

    name: str
    passes: int
    mode: str = "sparrow"
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def sees(self) -> str:
        """What it is trained to see of a clip."""
        mode = MODES[self.mode].settings
        return str({**mode, **self.settings}.get("trained_to_see", "nothing"))


def _sparrow(name: str, passes: int, sight: str) -> System:
    return System(name, passes, settings={"sees_clip": sight, "trained_to_see": sight})


SYSTEMS = (
    # The paper's own rows: one layer, of which more and more is switched on.
    _sparrow("EAGLE-2 style", 1, "states"),
    _sparrow("+ MTP", 2, "states"),
    _sparrow("+ MTP + IVSB", 2, "middle"),
    System("MSD", 1, "msd"),
    System("HiViS", 3, "hivis"),
    System("ViSpec", 2, "vispec"),
    System("EAGLE-3 style", 5, "eagle3"),
)
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Length:
    """Clips of about so many visual tokens."""

    visual_tokens: int
    clips: int
    checked: int
    """Of them: the first ones, which the first seed's drafts decode for real."""


LENGTHS = (
    Length(64, 50, 3),
    Length(512, 50, 3),
    Length(2_000, 50, 3),
    Length(8_000, 20, 3),
    Length(24_000, 6, 1),
)
