"""How much a run covers, and for what kind of device."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

Size = Literal["smoke", "quick", "full"]


class Selection(NamedTuple):
    """What a run covers. `smoke`: each op once, small; `quick`: minutes; `full`: the tables."""

    device: str
    """cpu or cuda: shapes that suit it."""
    size: Size

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device == "cuda" else torch.float32
