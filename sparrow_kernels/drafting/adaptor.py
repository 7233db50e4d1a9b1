"""ViSpec's image adaptor (arXiv 2509.15235): a clip as a few vectors, whatever its length."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ClipAdaptor(nn.Module):
    """A few learned queries attend to a clip's embeddings.

    The answers of all queries but the last become rows of the draft. The last one's is the clip's
    global vector; `to_shift` makes of it what is added to the rows of the text behind the clip.
    That is `fc` of `[emb; img_fc([h; g])]` multiplied out: the part of it that reads g is constant
    within a text, and costs nothing a step.
    """

    def __init__(self, hidden: int, heads: int, queries: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(queries, heads, hidden // heads))
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, hidden)
        self.to_shift = nn.Linear(hidden, hidden, bias=False)

    def forward(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """A clip's embeddings `[n, H]` -> rows `[queries - 1, H]`, and a shift `[H]`."""
        heads = self.queries.shape[1]
        key, value = (
            project(clip).unflatten(-1, (heads, -1)).transpose(0, 1)
            for project in (self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(self.queries.transpose(0, 1), key, value)
        answers = self.out(attended.transpose(0, 1).flatten(1))
        return answers[:-1], self.to_shift(answers[-1])
