"""A draft that has read the text before: it drafts what followed a token there, right or wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparrow_kernels.drafting.state import DraftState
from sparrow_kernels.models import draft_of_call as draft_module


class MimicState(DraftState):
    """The last token stands in for a hidden state; `followers` `[V, 3]` are drafted after it."""

    followers: Tensor

    def refresh(self, acceptance: Any, path_hidden: Tensor) -> Tensor:
        output = super().refresh(acceptance, path_hidden)
        last = acceptance.accept_length.clamp_min(0).long()[:, None]
        root = acceptance.tokens.gather(1, last).clamp_min(0)
        return root.to(output.dtype).expand(-1, output.shape[1])

    def grow(self, tokens: Tensor, hidden: Tensor, *place: Any) -> Tensor:
        output = super().grow(tokens, hidden, *place)
        return tokens[:, :, None].to(output.dtype).expand(-1, -1, output.shape[2])

    def best(self, hidden: Tensor, width: int) -> tuple[Tensor, Tensor]:
        known = self.followers[hidden[..., 0].long()]
        places = torch.arange(width, device=hidden.device)
        others = (known[..., :1] + 7 + places) % len(self.followers)
        ids = torch.where(places < 3, known[..., places.clamp_max(2)], others)
        return -(1.0 + places).expand(ids.shape), ids

    def logits(self, hidden: Tensor) -> Tensor:
        known = self.followers[hidden[..., 0].long()]
        flat = hidden.new_zeros((*hidden.shape[:-1], len(self.followers)))
        liking = 5.0 - torch.arange(3, device=hidden.device)
        return flat.scatter_(-1, known, liking.expand(known.shape))


def mimic(monkeypatch: pytest.MonkeyPatch, texts: Tensor, vocabulary: int) -> None:
    """Let drafts propose what follows a token in `texts` `[B, n]`: mostly first, else second."""
    followers = (torch.arange(vocabulary)[:, None] + torch.tensor([1, 2, 3])) % vocabulary
    for text in texts.tolist():
        for place, (token, following) in enumerate(zip(text, text[1:], strict=False)):
            followers[token, 1 if place % 4 == 3 else 0] = following
    monkeypatch.setattr(MimicState, "followers", followers.to(texts.device), raising=False)
    monkeypatch.setattr(draft_module, "DraftState", MimicState)
