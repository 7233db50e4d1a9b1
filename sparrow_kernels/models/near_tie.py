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

from sparrow_kernels.models.request import Request
from sparrow_kernels.ops.env import checks
from sparrow_kernels.ops.tree import build_tree

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
    measured: list[tuple[float, float]] = []
    replay = partial(_replay, forced=tokens[:at], rows=decoder.tree.total, measured=measured)
    target: Any = decoder.target
    target.generate(**inputs, **{**arguments, "do_sample": False}, custom_generate=replay)
    gap, rounding = measured[0]
    return gap < _ADMITTED * rounding


@torch.no_grad()
def _replay(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    forced: Tensor,
    rows: int,
    measured: list[tuple[float, float]],
    synced_gpus: bool = False,
    **model_kwargs: Any,
) -> Tensor:
    """A `custom_generate` that decodes nothing: it appends (gap, rounding) to `measured`."""
    request = Request(
        model,
        input_ids,
        logits_processor,
        stopping_criteria,
        generation_config,
        None,
        model_kwargs,
        tree_nodes=rows,
        max_path=1,
    )
    target, prompt = request.target, input_ids.shape[1]
    forced = forced.to(input_ids.device)
    target.enlarge(prompt + len(forced) + rows)
    with checks(False):
        request.prefill()
        decoded = []
        for length, token in enumerate(forced, start=prompt + 1):
            decoded.append(target.decode(token[None])[0])
            target.cache.note_committed(length)
        target.cache.set_committed(prompt)
        rounding = 0.0
        for start in range(0, len(forced), rows):
            chunk = forced[start : start + rows][None]
            chain = torch.arange(-1, chunk.shape[1] - 1, dtype=torch.int32, device=chunk.device)
            logits = target.verify(chunk, build_tree(chain[None])).logits[0]
            target.cache.set_committed(prompt + start + chunk.shape[1])
            apart = logits - torch.stack(decoded[start : start + rows])
            rounding = max(rounding, float(apart.float().abs().max()))
    best = decoded[-1].float().topk(2).values
    measured.append((float(best[0] - best[1]), rounding))
    return input_ids
