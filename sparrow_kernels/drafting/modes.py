"""Systems of drafting as modes of one draft: what each reads, and how many passes it is trained in.

Sparrow (arXiv 2602.15318), EAGLE-2 (2406.16858), MSD (2505.14260), ViSpec (2509.15235), HiViS
(2509.23928), EAGLE-3 (2503.01840).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class DraftMode:
    """One system.

    Args:
        passes: self-fed passes of its training, None for what a recipe says.
        settings: keywords of `SparrowDraftConfig`.
    """

    passes: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def settings_for(self, target_layers: int) -> dict[str, Any]:
        """`settings`, with the layers that EAGLE-3 reads of a target so deep."""
        settings = dict(self.settings)
        if settings.get("paired"):
            settings["layer_ids"] = (2, target_layers // 2, target_layers - 3)
        return settings


def _sees(sight: str, **settings: Any) -> dict[str, Any]:
    """What a draft is trained to see, in sight; no norms but those of the system."""
    plain = {"embedding_norm": False, "attention_norm": False}
    return {**plain, "sees_clip": sight, "trained_to_see": sight, **settings}


MODES = {
    "sparrow": DraftMode(),
    "eagle2": DraftMode(1, _sees("states")),
    "msd": DraftMode(1, _sees("embeddings", attention_norm=True)),
    "vispec": DraftMode(2, _sees("adaptor", clip_queries=2, clip_heads=4)),
    "hivis": DraftMode(3, _sees("nothing", step_shifts=4)),
    "eagle3": DraftMode(
        None,
        _sees(
            "placeholders",
            embedding_norm=True,
            attention_norm=True,
            paired=True,
            fc_bias=False,
            final_norm=True,
        ),
    ),
}
