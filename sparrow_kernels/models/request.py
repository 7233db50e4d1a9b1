"""One call of `generate`: what both the plain and the speculative loop set up and hand back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteriaList,
)
from transformers.utils import ModelOutput

from sparrow_kernels.models.bridge.names import without_cache
from sparrow_kernels.models.families import Parts, VidLLM
from sparrow_kernels.models.selection import TokenChooser
from sparrow_kernels.models.sequence import EmittedSequence, Streamer
from sparrow_kernels.models.stats import DecodeStats, PhaseTimer
from sparrow_kernels.models.target import Prefill, TargetState
from sparrow_kernels.models.unsupported import refuse_unsupported


@dataclass
class SparrowOutput(ModelOutput):
    """What a decoder returns: `sequences` `[1, prompt + new]` int64 and the run's `stats`."""

    sequences: Tensor | None = None
    stats: DecodeStats | None = None


class Request:
    """State of one call, from the arguments transformers hands to a custom `generate`.

    Args:
        tree_nodes: T, slots the cache needs behind the longest sequence.
        max_path: S, the most nodes a step accepts, root included.
        generator: what samples; None for torch's own.
    """

    def __init__(
        self,
        model: VidLLM,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        streamer: Streamer | None,
        model_kwargs: dict[str, Any],
        tree_nodes: int,
        max_path: int,
        generator: torch.Generator | None = None,
    ) -> None:
        refuse_unsupported(input_ids, generation_config, model_kwargs)
        self.parts = Parts(model).private()
        length = input_ids.shape[1]
        context = self.parts.text_config.max_position_embeddings
        if length >= context:
            raise ValueError(
                f"prompt must be shorter than the model's context of {context} tokens, got"
                f" {length} (use fewer or smaller frames)"
            )
        self.generation_config = generation_config
        self.sequence = EmittedSequence(
            input_ids, stopping_criteria, generation_config.max_length, streamer
        )
        self.chooser = TokenChooser(
            logits_processor,
            bool(generation_config.do_sample),
            self.sequence,
            max_path,
            generator,
        )
        self.tree_nodes, self.max_path, self.generator = tree_nodes, max_path, generator
        self.target = TargetState(self.parts, self.sequence.room.tokens + tree_nodes)
        self.stats = DecodeStats()
        self.timer = PhaseTimer(self.stats, input_ids.device)
        self._model_inputs = self.parts.model.prepare_inputs_for_generation(
            input_ids, is_first_iteration=True, **without_cache(model_kwargs)
        )

    def prefill(self, *, slice_clip: bool = False) -> Prefill:
        """Run the prompt and emit the first token."""
        with self.timer.phase("prefill"):
            prefill = self.target.prefill(self._model_inputs, slice_clip=slice_clip)
            first = self.chooser.after_sequence(prefill.logits)
            self.stats.new_tokens += self.emit(first.tolist())
        self._model_inputs = {}  # the clip's pixels are not needed again
        return prefill

    def emit(self, tokens: list[int]) -> int:
        """Emit tokens until one completes the sequence; returns how many were kept.

        Raises:
            ValueError: one of them could not be drawn, since its distribution is none.
        """
        if tokens[-1] < 0:
            self.chooser.explain_no_token()
        return self.sequence.emit(tokens)

    def make_room(self) -> bool:
        """Make room for a step; whether buffers have moved, and a draft's has to follow."""
        grows = self.sequence.make_room(self.max_path)
        if grows:
            self.target.enlarge(self.sequence.room.tokens + self.tree_nodes)
        return grows

    def last_token(self) -> Tensor:
        """`[1]` int64: the token whose KV is not cached yet."""
        return self.sequence.ids[:, -1]

    def result(self) -> Tensor | SparrowOutput:
        """What `generate` returns: ids, or an output with stats where a dict was asked for."""
        self.timer.finish()
        self.stats.cache_bytes += self.target.cache.nbytes
        if self.generation_config.return_dict_in_generate:
            return SparrowOutput(sequences=self.sequence.ids.clone(), stats=self.stats)
        return self.sequence.ids.clone()
