"""What a call hands back, and the scores and logits it keeps where they were asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.utils import ModelOutput

from sparrow_kernels.decoding import DecodeStats, Step
from sparrow_kernels.models.emission import Emission
from sparrow_kernels.models.selection import TokenChooser


@dataclass
class SparrowOutput(ModelOutput):
    """What a decoder returns.

    `sequences` `[B, prompt + new]` int64, the run's `stats`, and where they were asked for, as
    `generate` returns them: `scores` and `logits`, for each new token `[B, V]` after and before
    the logits processors; rows of a request that had ended are 0. `cache` holds the keys and values
    of the prompts: given to a later call as `cache` or `past_key_values`, what its prompts begin
    with is not run again.
    """

    sequences: Tensor | None = None
    stats: DecodeStats | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    cache: Any = None


class Recorder:
    """Keeps the rows of the accepted paths, as steps go by."""

    def __init__(self, config: GenerationConfig, chooser: TokenChooser, emission: Emission) -> None:
        self.chooser, self._emission = chooser, emission
        chooser.keeps_scores = bool(config.output_scores)
        self._kept: dict[str, list[list[Tensor]]] = {}
        for name, asked in (("logits", config.output_logits), ("scores", config.output_scores)):
            if asked:
                self._kept[name] = [[] for _ in emission.sequences]

    @property
    def asked(self) -> bool:
        """Whether anything is to be kept."""
        return bool(self._kept)

    def first(self, logits: Tensor) -> None:
        """Keep the row that each request's first token came from."""
        assert self.chooser.scores is not None
        rows = {"logits": logits, "scores": self.chooser.scores[:, 0]}
        for name, requests in self._kept.items():
            for request, kept in enumerate(requests):
                kept.append(rows[name][request])

    def observe(self, step: Step) -> None:
        """Keep the rows of what this step emitted."""
        assert self.chooser.scores is not None
        path = step.committed.acceptance.path.long().clamp_min(0)
        rows = {"logits": step.verified.logits, "scores": self.chooser.scores}
        for name, requests in self._kept.items():
            along = rows[name].take_along_dim(path[:, :, None], dim=1)
            for request, kept in enumerate(requests):
                missing = len(self._emission.sequences[request].new) - len(kept)
                kept.extend(along[request, :missing].clone())  # not what was refused beside it

    def result(self) -> dict[str, Any]:
        """By name, a `[B, V]` for each new token."""
        found = {}
        for name, requests in self._kept.items():
            longest = max(len(kept) for kept in requests)
            blank = torch.zeros_like(requests[0][0])
            found[name] = tuple(
                torch.stack([kept[n] if n < len(kept) else blank for kept in requests])
                for n in range(longest)
            )
        return found
