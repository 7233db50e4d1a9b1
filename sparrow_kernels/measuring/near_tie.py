"""Whether two greedy decoders may differ at a token because their logits round differently.

A verify of T rows and a decode of one row use other shapes, so low precisions round them apart. A
difference is admitted only where the plain decoder's top two logits are closer than 4 times the
largest logit difference between the two.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)

from sparrow_kernels.decoding import Step, Tree, TreeConfig, decode, first_committed
from sparrow_kernels.models.request import Request
from sparrow_kernels.ops.env import checks
from sparrow_kernels.ops.types import Acceptance

if TYPE_CHECKING:
    from sparrow_kernels.models.decoder import SparrowDecoder

_ADMITTED = 4.0


def is_near_tie(
    decoder: SparrowDecoder, inputs: dict[str, Any], tokens: Tensor, at: int, **arguments: Any
) -> bool:
    """Whether new token `at` (from 0) of a plain decoder's `tokens` was too close to call.

    Replays the tokens before it twice, one by one and in verifies of `tree.total` rows. The first
    token comes from a prefill, which is the same either way: never a tie. Logits are compared as
    the target gives them, before any logits processor.
    """
    if at == 0:
        return False
    rows = []
    for nodes in (1, min(decoder.tree.total, at + 1)):
        kept: list[Tensor] = []
        replay = partial(_replay, tokens=tokens[: at + 1], nodes=nodes, kept=kept)
        settings = {**arguments, "do_sample": False, "max_new_tokens": at + 1}
        target: Any = decoder.target
        target.generate(**inputs, **settings, custom_generate=replay)
        rows.append(torch.cat(kept)[:at])
    decoded, verified = rows
    best = decoded[-1].topk(2).values
    return bool(best[0] - best[1] < _ADMITTED * (decoded - verified).abs().max())


@torch.no_grad()
def _replay(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    tokens: Tensor,
    nodes: int,
    kept: list[Tensor],
    synced_gpus: bool = False,
    **model_kwargs: Any,
) -> Tensor:
    """A `custom_generate` that emits `tokens`, whatever the target says, `nodes` a verify; `kept`
    receives the logits `[n, V]` after each of them, float32."""
    request = Request(
        model,
        input_ids,
        LogitsProcessorList(),
        stopping_criteria,
        generation_config,
        None,
        model_kwargs,
        tree_nodes=nodes,
        max_path=nodes,
    )
    request.stops.ids.clear()
    request.stops.others.clear()
    known = _Known(tokens.to(input_ids.device), request.emission.sequences[0].new)
    with checks(False):
        prefill, _, _ = request.prefill()
        request.emission.sequences[0].new[:] = [int(tokens[0])]
        first = first_committed(known.tokens[:1], prefill.states, nodes)
        tree = TreeConfig(nodes, max(1, nodes - 1), 1)
        draft = known if nodes > 1 else None
        step = Step(request.target, draft, tree, known, request.coins, first)

        def keep(step: Step) -> None:
            emitted = int(step.emitted[0, 0])
            kept.append(step.verified.logits[0, :emitted].float())

        decode(step, request.target, draft, request.emission, request.timer, observe=keep)
    return input_ids


class _Known:
    """A draft that drafts what is known to come, and a choice that takes it.

    Implements `sparrow_kernels.decoding`'s `Draft` and `Choose` for one request.
    """

    scores: Tensor | None = None

    def __init__(self, tokens: Tensor, emitted: list[int]) -> None:
        self.tokens = tokens
        self._emitted = emitted

    def __call__(self, tree: Tree, logits: Tensor) -> Tensor:
        return self._from(len(self._emitted), tree.tokens.shape[1])[None]

    def probs(self, logits: Tensor) -> Tensor:
        raise NotImplementedError("known tokens are not drawn")

    def refresh(self, acceptance: Acceptance, path_hidden: Tensor) -> Tensor:
        return path_hidden.new_zeros((1, 1), dtype=torch.float32)

    def grow(
        self, tokens: Tensor, hidden: Tensor, depth: int, first_slot: int, ancestors: Tensor
    ) -> Tensor:
        return torch.full_like(hidden, depth)

    def best(self, hidden: Tensor, width: int) -> tuple[Tensor, Tensor]:
        level = hidden.flatten()[0].long()
        place = (len(self._emitted) + level).clamp_max(len(self.tokens) - 1)
        shape = (*hidden.shape[:-1], width)
        return hidden.new_zeros(shape), self.tokens[place].expand(shape)

    def logits(self, hidden: Tensor) -> Tensor:
        raise NotImplementedError("known tokens are not drawn")

    def enlarge(self, new_tokens: int) -> bool:
        return False

    def _from(self, first: int, count: int) -> Tensor:
        places = torch.arange(first, first + count, device=self.tokens.device)
        return self.tokens[places.clamp_max(len(self.tokens) - 1)]
