"""How many tokens a draft saves the small target, and whether that is due to the clip.

A draft that sees text only could be good at the captions' fixed phrases alone. So the same draft
is also fed the states of *another* clip under the same text: what it loses then is what the
target's text states carry of the clip.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparrow_kernels.decoding import (
    DecodeStats,
    Step,
    TreeConfig,
    Verification,
    decode,
    first_committed,
)
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.embedded.clips import ClipScript
from sparrow_kernels.embedded.worlds import EASY, World, world_of
from sparrow_kernels.models.decoder import SparrowDecoder
from sparrow_kernels.models.draft_of_call import draft_state
from sparrow_kernels.models.request import Request
from sparrow_kernels.models.target import TargetState
from sparrow_kernels.ops.env import checks
from sparrow_kernels.ops.types import TreeLayout
from sparrow_kernels.training.bars import bar
from sparrow_kernels.training.evaluation import MAX_ANSWER_TOKENS, through_mp4
from sparrow_kernels.training.small_target import clip_inputs

QUESTION = "Describe the video in detail."
UNSEEN_SEED = 5_000_000
"""Clips of evaluations have seeds from here on; no training draws from them."""


class OtherClipsStates:
    """A target that decides by its own clip, but hands on the states of another.

    Both requests run the same tree over the same text, in caches of the same lengths: so one
    commit compacts both. Implements `sparrow_kernels.decoding.Target`.
    """

    def __init__(self, own: TargetState, other: TargetState) -> None:
        self._own, self._other = own, other
        self.keys = [*own.keys, *other.keys]
        self.values = [*own.values, *other.values]
        self.prefix_lens = own.prefix_lens

    def verify(self, tokens: Tensor, layout: TreeLayout) -> Verification:
        """The own clip's logits and the other clip's states."""
        self._other.prefix_lens.copy_(self.prefix_lens)
        logits = self._own.verify(tokens, layout).logits
        return Verification(self._other.verify(tokens, layout).states, logits)

    def enlarge(self, slots: int) -> bool:
        """Both."""
        moved = self._own.enlarge(slots) | self._other.enlarge(slots)
        self.keys = [*self._own.keys, *self._other.keys]
        self.values = [*self._own.values, *self._other.values]
        return moved


def emitted_with_states_of(
    target: PreTrainedModel,
    draft: SparrowDraft,
    tree: TreeConfig,
    own: dict[str, Any],
    other: dict[str, Any],
    max_new_tokens: int = MAX_ANSWER_TOKENS,
) -> DecodeStats:
    """Greedy decoding of `own` with a draft that is fed the states of `other`.

    Args:
        own, other: processor outputs of prompts that differ in their clips' pixels alone.

    Raises:
        ValueError: the prompts differ.
    """
    if not torch.equal(own["input_ids"], other["input_ids"]):
        raise ValueError("other: must have the prompt of own, got another (use clips of one shape)")
    requests: list[Request] = []
    model: Any = target

    def catch(model: Any, *arguments: Any, synced_gpus: bool = False, **keywords: Any) -> Tensor:
        names = ("logits_processor", "stopping_criteria", "generation_config")
        processors, criteria, config = (keywords.pop(name) for name in names)
        sizes = (tree.total, tree.max_path)
        requests.append(
            Request(model, arguments[0], processors, criteria, config, None, keywords, *sizes)
        )
        return arguments[0]

    for inputs in (own, other):
        model.generate(
            **inputs, custom_generate=catch, max_new_tokens=max_new_tokens, do_sample=False
        )
    with torch.no_grad(), checks(False):
        return _decode_with_states(draft, tree, *requests)


def _decode_with_states(
    draft: SparrowDraft, tree: TreeConfig, own: Request, other: Request
) -> DecodeStats:
    rules = draft.config.row_rules()
    prefill, first, _ = own.prefill(rules)
    others_prefill, _, _ = other.prefill(rules)
    if own.emission.finished:
        return own.stats
    both = OtherClipsStates(own.target, other.target)
    state = draft_state(own, draft, tree, others_prefill.rows, rules)
    committed = first_committed(first, others_prefill.states, tree.max_path)
    step = Step(both, state, tree, own.chooser, own.coins, committed)
    decode(step, both, state, own.emission, own.timer)
    own.timer.finish()
    return own.stats


def caption_inputs(processor: Any, script: ClipScript, world: World = EASY) -> dict[str, Any]:
    """The caption's prompt for a clip that went through an mp4 file."""
    frames, fps = through_mp4(script, world)
    return clip_inputs(processor, frames, fps, QUESTION)


def evaluate_draft(
    target: PreTrainedModel,
    draft: SparrowDraft,
    processor: Any,
    visual_tokens: int,
    seeds: Iterable[int],
    tree: TreeConfig | None = None,
    control: bool = True,
) -> dict[str, Any]:
    """Captions of unseen clips of the target's world at a budget of visual tokens.

    Returns:
        `mean_emitted` and its `histogram` over all steps of all captions, and with `control`
        `mean_emitted_other_clip`, the draft being fed the next clip's states.
    """
    tree = tree or TreeConfig(**draft.config.tree)
    decoder = SparrowDecoder(target, draft, tree)
    world = world_of(target)
    scripts = [world.make_clip(visual_tokens, seed) for seed in seeds]
    runs: list[DecodeStats] = []
    control_runs: list[DecodeStats] = []
    following = caption_inputs(processor, scripts[0], world) if control else {}
    for script in bar(scripts[::-1], desc=f"{visual_tokens} visual tokens", unit="clip"):
        inputs = caption_inputs(processor, script, world)
        stats = decoder.generate(**inputs, max_new_tokens=MAX_ANSWER_TOKENS).stats
        runs.append(cast(DecodeStats, stats))
        if control:
            control_runs.append(emitted_with_states_of(target, draft, tree, inputs, following))
            following = inputs
    result: dict[str, Any] = {
        "visual_tokens": scripts[0].visual_tokens,
        "clips": len(scripts),
        "tree": str(tree),
        "mean_emitted": mean_emitted(runs),
        "histogram": summed([run.histogram for run in runs]),
    }
    if control:
        result["mean_emitted_other_clip"] = mean_emitted(control_runs)
    return result


def mean_emitted(runs: list[DecodeStats]) -> float:
    """Tokens a target call emitted, over all calls of several runs."""
    return sum(run.new_tokens - 1 for run in runs) / sum(run.target_calls for run in runs)


def summed(histograms: list[list[int]]) -> list[int]:
    width = max(len(histogram) for histogram in histograms)
    return [sum(h[k] for h in histograms if k < len(h)) for k in range(width)]
