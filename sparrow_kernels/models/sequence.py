"""What a frozen target leaves at every slot of a sequence: what drafts are trained on.

Sequences are run as a decoder's prefill runs prompts, by the same code and one by one without
padding, so that a draft is trained on the very numbers that it will be given.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.models.bridge.attention import check_attended
from sparrow_kernels.models.bridge.names import leave_the_tower_to_us, without_cache
from sparrow_kernels.models.bridge.states import StateTap
from sparrow_kernels.models.families import Parts, VidLLM
from sparrow_kernels.models.prompt import RequestPrompt, take_prompts


@dataclass
class SequenceStates:
    """One sequence, run."""

    ids: Tensor
    """`[n]` int64."""
    visual: Tensor
    """`[n]` bool: slots that hold a clip's or an image's tokens."""
    positions: Tensor
    """`[axes, n]`, or `[n]` where the family has one axis."""
    embeddings: Tensor
    """`[n, H]` what the first layer read."""
    top: Tensor
    """`[n, H]` after the final norm."""
    inner: dict[int, Tensor]
    """By index in transformers' tuple of hidden states, `[n, H]`."""

    def read(self, layer_ids: tuple[int, ...] | None) -> Tensor:
        """`[n, L*H]` the states that a draft reads of each slot; None for the top one."""
        if layer_ids is None:
            return self.top
        return torch.cat([self.inner[each] for each in layer_ids], dim=-1)


class SequenceReader:
    """Runs sequences through a target, of which nothing is changed.

    Args:
        layer_ids: indices in transformers' tuple of hidden states, 0 the embedding, of the inner
            states that are wanted too.

    Raises:
        ValueError: the target is no model that the decoder works with, or has no such layer.
    """

    def __init__(self, target: VidLLM, layer_ids: Collection[int] = ()) -> None:
        self._parts = Parts(target).private()
        leave_the_tower_to_us(self._parts.model)
        self._top = self._parts.text_config.num_hidden_layers
        self._wanted = set(layer_ids)
        self._tap = StateTap(self._parts.language_model, self._wanted, self._top)

    @torch.no_grad()
    def __call__(self, inputs: dict[str, Any]) -> list[SequenceStates]:
        """The sequences of processor outputs, of which the prompt is the whole text."""
        return [self._states_of(prompt) for prompt in self._prompts(inputs)]

    def _prompts(self, inputs: dict[str, Any]) -> Iterator[RequestPrompt]:
        caught: list[dict[str, Any]] = []
        device = self._parts.device
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}

        def catch(_: Any, ids: Tensor, *__: Any, **keywords: Any) -> Tensor:
            caught.append(keywords)
            return ids

        # What `generate` makes of the processor's outputs is asked for, not repeated here.
        model = self._parts.model
        model.generate(**moved, custom_generate=catch, max_new_tokens=1, do_sample=False)
        (keywords,) = caught
        mask = keywords.get("attention_mask")
        for name in _OF_GENERATE:
            keywords.pop(name, None)
        prepared = model.prepare_inputs_for_generation(
            moved["input_ids"], is_first_iteration=True, **without_cache(keywords)
        )
        yield from take_prompts(self._parts, prepared, mask)

    def _states_of(self, prompt: RequestPrompt) -> SequenceStates:
        (chunk,) = prompt.chunks(0, len(prompt.ids))
        language_model = self._parts.language_model
        output = language_model(**chunk.inputs, attention_mask=None, use_cache=False, nodes=None)
        check_attended(language_model, self._top)
        top = output.last_hidden_state
        inner = {each: self._tap.of(each, top)[0] for each in self._wanted}
        self._tap.taken.clear()
        return SequenceStates(
            prompt.ids,
            prompt.visual,
            prompt.positions.select(-2, 0),
            prompt.embeddings[0],
            top[0],
            inner,
        )


_OF_GENERATE = (
    "logits_processor",
    "stopping_criteria",
    "generation_config",
    "synced_gpus",
    "streamer",
)
