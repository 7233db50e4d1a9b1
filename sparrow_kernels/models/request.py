"""One call of `generate`: what transformers hands over, as the loop takes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from sparrow_kernels.decoding import DecodeStats, PhaseTimer
from sparrow_kernels.decoding.coins import Generators
from sparrow_kernels.drafting.requirements import check_no_dropout
from sparrow_kernels.drafting.rows import TEXT_ALONE, RowRules
from sparrow_kernels.models.bridge.names import without_cache
from sparrow_kernels.models.bridge.wrapped import is_watched
from sparrow_kernels.models.emission import Emission, Stops, Streamer
from sparrow_kernels.models.families import Parts, VidLLM
from sparrow_kernels.models.outputs import Recorder, SparrowOutput
from sparrow_kernels.models.parallel import Agreement, is_split
from sparrow_kernels.models.prompt import take_prompts
from sparrow_kernels.models.selection import TokenChooser, reads_history
from sparrow_kernels.models.target import Prefill, TargetState
from sparrow_kernels.models.unsupported import refuse_unsupported
from sparrow_kernels.models.workspace import Workspace


class Request:
    """State of one call, from the arguments transformers hands to a custom `generate`.

    Args:
        tree_nodes: T, slots the cache needs behind the longest sequence.
        max_path: S, the most nodes a step accepts, root included.
        generator: what samples; None for torch's own, a list for one a request.
        workspace: buffers of an earlier call, to be used again.
        earlier: a target whose cache may hold what prompts begin with.
        compiled: whether steps run compiled layers.
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
        generator: Generators = None,
        workspace: Workspace | None = None,
        earlier: TargetState | None = None,
        compiled: bool = False,
    ) -> None:
        batch, length = input_ids.shape
        refuse_unsupported(input_ids, generation_config, model_kwargs, streamer, generator)
        self.parts = Parts(model).private()
        check_no_dropout(self.parts.model)
        _check_fits_context(self.parts, length)
        self.config = generation_config
        self.stats = DecodeStats(batch)
        self.timer = PhaseTimer(self.stats, input_ids.device)
        self.max_path = max_path
        self.workspace = workspace or Workspace(batch)
        self.coins = self.workspace.coins_of(tree_nodes, input_ids.device, generator)
        mask = model_kwargs.get("attention_mask")
        padding = [0] * batch if mask is None else (mask == 0).sum(dim=1).tolist()
        self.agree = Agreement(self.parts.model)
        self.agree.on_coins(generator, input_ids.device)
        criteria = self.agree.on_stops(stopping_criteria)
        self.stops = Stops(criteria, generation_config.max_length)
        self.emission = Emission(
            input_ids,
            padding,
            self.stops,
            reads_history(logits_processor) or bool(self.stops.others),
            _pad_token(generation_config),
            streamer,
            self.stats,
        )
        self.chooser = TokenChooser(
            logits_processor,
            self.emission.sequences,
            self.coins if generation_config.do_sample else None,
            max_path,
            self.agree,
        )
        self.recorder = Recorder(generation_config, self.chooser, self.emission)
        slots = self.emission.slots_for(1 + max_path) + tree_nodes
        self.target = self.workspace.target_of(self.parts, slots, compiled)
        fits = earlier is not None and earlier.fits(self.parts, compiled)
        self._earlier = earlier if fits else None
        self._mask, self._compiled = mask, compiled
        self._model_inputs = self.parts.model.prepare_inputs_for_generation(
            input_ids, is_first_iteration=True, **without_cache(model_kwargs)
        )

    def prefill(self, rules: RowRules = TEXT_ALONE) -> tuple[Prefill, Tensor, list[int]]:
        """Run the prompts and emit each request's first token: those `[B]`, and who is finished."""
        with self.timer.phase("prefill"):
            prompts = take_prompts(self.parts, self._model_inputs, self._mask)
            self._model_inputs = {}  # the clip's pixels are not needed again
            prefill = self.target.prefill(
                prompts,
                chunk_size=self.config.prefill_chunk_size,
                copies=self.config.num_return_sequences or 1,
                rules=rules,
                keep=bool(self.config.return_dict_in_generate),
                earlier=self._earlier,
            )
            del prompts
            for row, slots in zip(self.stats.rows, prefill.reused, strict=True):
                row.reused_slots = slots
            first = self.chooser.after_prompt(prefill.logits)
            self.recorder.first(prefill.logits)
            finished = self.emission.take_first(first.tolist())
        return prefill, first, finished

    @property
    def can_be_recorded(self) -> bool:
        """Whether the calls of a step are all there is to it, so that they can be made again."""
        device = self.target.prefix_lens.device.type
        is_plain = device == "cpu" and not self._compiled and not torch.is_autocast_enabled(device)
        parts = self.parts
        is_alone = not is_split(parts.model) and not parts.model.training
        called = (parts.language_model, parts.lm_head, parts.embedding)
        return is_plain and is_alone and not is_watched(*called)

    def use(self, chooser: TokenChooser) -> None:
        """Choose by an earlier call's chooser, which does the same where graphs expect it."""
        self.chooser = self.recorder.chooser = chooser

    def result(self) -> Tensor | SparrowOutput:
        """What `generate` returns: ids, or an output with stats where a dict was asked for."""
        self.timer.finish()
        self.stats.cache_bytes = self.workspace.nbytes
        sequences = self.emission.result()
        if self.config.return_dict_in_generate:
            cache = self.target.cache
            cache.workspace = self.workspace
            kept = self.recorder.result()
            return SparrowOutput(sequences=sequences, stats=self.stats, cache=cache, **kept)
        return sequences


def _check_fits_context(parts: Parts, length: int) -> None:
    context = getattr(parts.text_config, "max_position_embeddings", None)
    if context is not None and length >= context:
        raise ValueError(
            f"prompt must be shorter than the model's context of {context} tokens, got"
            f" {length} (use fewer or smaller frames)"
        )


def _pad_token(config: GenerationConfig) -> int | None:
    """What `generate` puts behind a sequence that is shorter than another."""
    pad: Any = getattr(config, "_pad_token_tensor", None)
    pad = config.pad_token_id if pad is None else pad
    return None if pad is None else int(torch.as_tensor(pad).flatten()[0])
