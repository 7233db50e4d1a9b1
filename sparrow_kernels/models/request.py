"""One call of `generate`: what both the plain and the speculative loop set up and hand back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteriaList,
)
from transformers.utils import ModelOutput

from sparrow_kernels.models.families import Parts, VidLLM
from sparrow_kernels.models.selection import TokenChooser
from sparrow_kernels.models.sequence import EmittedSequence, Streamer
from sparrow_kernels.models.stats import DecodeStats, PhaseTimer
from sparrow_kernels.models.target import Prefill, TargetState


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
    ) -> None:
        self.parts = Parts(model)
        _refuse_unsupported(input_ids, generation_config, model_kwargs)
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
            logits_processor, bool(generation_config.do_sample), self.sequence, max_path
        )
        self.target = TargetState(self.parts, self.sequence.max_length + tree_nodes)
        self.stats = DecodeStats()
        self.timer = PhaseTimer(self.stats, input_ids.device)
        self._model_inputs = model.prepare_inputs_for_generation(
            input_ids, is_first_iteration=True, **model_kwargs
        )

    def prefill(self, *, slice_clip: bool = False) -> Prefill:
        """Run the prompt and emit the first token."""
        with self.timer.phase("prefill"):
            prefill = self.target.prefill(self._model_inputs, slice_clip=slice_clip)
            first = self.chooser.after_sequence(prefill.logits)
            self.stats.new_tokens += self.sequence.emit(first.tolist())
        self._model_inputs = {}  # the clip's pixels are not needed again
        return prefill

    def last_token(self) -> Tensor:
        """`[1]` int64: the token whose KV is not cached yet."""
        return self.sequence.ids[:, -1]

    def result(self) -> Tensor | SparrowOutput:
        """What `generate` returns: ids, or an output with stats where a dict was asked for."""
        self.timer.finish()
        if self.generation_config.return_dict_in_generate:
            return SparrowOutput(sequences=self.sequence.ids.clone(), stats=self.stats)
        return self.sequence.ids.clone()


def _refuse_unsupported(
    input_ids: Tensor, config: GenerationConfig, model_kwargs: dict[str, Any]
) -> None:
    if (config.num_beams or 1) > 1:
        raise NotImplementedError(
            f"sparrow_generate: num_beams must be 1, got {config.num_beams}"
            " (beam search has no speculative form)"
        )
    if input_ids.shape[0] != 1:
        raise NotImplementedError(
            f"sparrow_generate: batch must be 1, got {input_ids.shape[0]}"
            " (decode the requests one by one)"
        )
    for name in ("output_scores", "output_logits", "output_attentions", "output_hidden_states"):
        if getattr(config, name, None):
            raise NotImplementedError(
                f"sparrow_generate: {name} must be off, got True (tree nodes are verified together"
                " and not kept)"
            )
    mask = model_kwargs.get("attention_mask")
    if mask is not None and not bool((mask == 1).all()):
        raise NotImplementedError(
            "sparrow_generate: attention_mask must be all ones, got padding (a single request"
            " needs none)"
        )
    cache = model_kwargs.get("past_key_values")
    if cache is not None and int(cache.get_seq_length()) > 0:
        raise NotImplementedError(
            "sparrow_generate: past_key_values must be empty, got a filled cache (pass the whole"
            " conversation as input_ids)"
        )
