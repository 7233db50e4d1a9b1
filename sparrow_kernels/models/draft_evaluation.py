"""How many tokens a draft saves the small target, and whether that is due to the clip.

    python -m sparrow_kernels.models.draft_evaluation TARGET_DIR DRAFT_DIR [--clips 50]

A draft that sees text only could be good at the captions' fixed phrases alone. So the same draft
is also fed the states of *another* clip under the same text: what it loses then is what the
target's text states carry of the clip.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from sparrow_kernels.decoding import (
    Committed,
    Tree,
    TreeConfig,
    Verification,
    commit_step,
    grow_tree,
    next_root,
    verify_step,
)
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.drafting.state import DraftState
from sparrow_kernels.embedded.clips import ClipScript, make_clip
from sparrow_kernels.embedded.evaluation import MAX_ANSWER_TOKENS, through_mp4
from sparrow_kernels.models.bridge.names import without_cache
from sparrow_kernels.models.decoder import SparrowDecoder
from sparrow_kernels.models.families import Parts
from sparrow_kernels.models.pair import load_draft, load_target
from sparrow_kernels.models.small_target import END, clip_inputs
from sparrow_kernels.models.stats import DecodeStats
from sparrow_kernels.models.target import TargetState
from sparrow_kernels.ops.env import checks
from sparrow_kernels.ops.types import TreeLayout

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
        self._other.cache.set_committed(int(self.prefix_lens))
        logits = self._own.verify(tokens, layout).logits
        return Verification(self._other.verify(tokens, layout).hidden, logits)


@torch.no_grad()
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
    parts, stats = Parts(target).private(), DecodeStats()
    prompt_length = own["input_ids"].shape[1]
    capacity = prompt_length + max_new_tokens + tree.total + tree.max_path
    with checks(False):
        states = [TargetState(parts, capacity) for _ in range(2)]
        prefill, others_prefill = (
            state.prefill(model_inputs(target, inputs))
            for state, inputs in zip(states, (own, other), strict=True)
        )
        both = OtherClipsStates(*states)
        root = prefill.logits.argmax(dim=-1)
        stats.new_tokens = 1
        state = DraftState(
            draft.network_for(parts.embedding.weight),
            parts.embedding,
            parts.lm_head,
            draft.config.rope_theta,
            capacity=capacity + tree.draft_slots,
            banned=torch.tensor([END, *parts.placeholder_ids]),
        )
        tokens = torch.cat([prefill.text_tokens, root[:, None]], dim=1)
        root_hidden = state.prefill(tokens, others_prefill.text_hidden)
        committed: Committed | None = None
        while int(root) != END and stats.new_tokens < max_new_tokens:
            if committed is not None:
                root_hidden = state.refresh(*committed)
            grown = grow_tree(state, tree, root, root_hidden, temperature=1.0)
            verified = verify_step(both, grown)
            committed = commit_step(both, grown, verified, tree.max_path, _greedy)
            emitted = int(committed.acceptance.accept_length) + 1
            stats.count_step(min(emitted, max_new_tokens - stats.new_tokens))
            root = next_root(committed.acceptance)
    return stats


def caption_inputs(processor: Any, script: ClipScript) -> dict[str, Any]:
    """The caption's prompt for a clip that went through an mp4 file."""
    frames, fps = through_mp4(script)
    return dict(clip_inputs(processor, frames, fps, QUESTION))


def evaluate_draft(
    target: PreTrainedModel,
    draft: SparrowDraft,
    processor: Any,
    visual_tokens: int,
    seeds: Iterable[int],
    tree: TreeConfig | None = None,
    control: bool = True,
) -> dict[str, Any]:
    """Captions of unseen clips at a budget of visual tokens.

    Returns:
        `mean_emitted` and its `histogram` over all steps of all captions, and with `control`
        `mean_emitted_other_clip`, the draft being fed the next clip's states.
    """
    decoder = SparrowDecoder(target, draft, tree)
    scripts = [make_clip(visual_tokens, seed) for seed in seeds]
    runs: list[DecodeStats] = []
    control_runs: list[DecodeStats] = []
    following = caption_inputs(processor, scripts[0]) if control else {}
    for script in tqdm(scripts[::-1], desc=f"{visual_tokens} visual tokens", unit="clip"):
        inputs = caption_inputs(processor, script)
        stats = decoder.generate(**inputs, max_new_tokens=MAX_ANSWER_TOKENS).stats
        runs.append(cast(DecodeStats, stats))
        if control:
            control_runs.append(
                emitted_with_states_of(target, draft, decoder.tree, inputs, following)
            )
            following = inputs
    result: dict[str, Any] = {
        "visual_tokens": scripts[0].visual_tokens,
        "clips": len(scripts),
        "tree": str(decoder.tree),
        "mean_emitted": mean_emitted(runs),
        "histogram": _summed([run.histogram for run in runs]),
    }
    if control:
        result["mean_emitted_other_clip"] = mean_emitted(control_runs)
    return result


def mean_emitted(runs: list[DecodeStats]) -> float:
    """Tokens a target call emitted, over all calls of several runs."""
    return sum(run.new_tokens - 1 for run in runs) / sum(run.target_calls for run in runs)


def _summed(histograms: list[list[int]]) -> list[int]:
    width = max(len(histogram) for histogram in histograms)
    return [sum(h[k] for h in histograms if k < len(h)) for k in range(width)]


def _greedy(tree: Tree, logits: Tensor) -> Tensor:
    return logits.argmax(dim=-1)


def model_inputs(target: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """What `generate` hands to the first forward, positions included."""
    caught: dict[str, Any] = {}

    def catch(model: Any, input_ids: Tensor, *_: Any, **model_kwargs: Any) -> Tensor:
        for name in ("logits_processor", "stopping_criteria", "generation_config"):
            model_kwargs.pop(name, None)
        prepared = model.prepare_inputs_for_generation(
            input_ids, is_first_iteration=True, **without_cache(model_kwargs)
        )
        caught.update(prepared)
        return input_ids

    target.generate(**inputs, custom_generate=catch, max_new_tokens=1)
    return caught


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate a draft on captions of unseen clips.")
    parser.add_argument("target_dir", type=Path)
    parser.add_argument("draft_dir", type=Path)
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--visual-tokens", type=int, nargs="+", default=[500, 4000])
    parser.add_argument("--tree", type=TreeConfig.parse, default=None)
    parser.add_argument("--no-control", action="store_true")
    arguments = parser.parse_args()
    target, processor = load_target(arguments.target_dir)
    draft = load_draft(target, arguments.draft_dir)
    seeds = range(UNSEEN_SEED, UNSEEN_SEED + arguments.clips)
    for visual_tokens in arguments.visual_tokens:
        result = evaluate_draft(
            target,
            draft,
            processor,
            visual_tokens,
            seeds,
            arguments.tree,
            control=not arguments.no_control,
        )
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
