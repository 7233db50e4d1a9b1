"""`custom_generate` functions for transformers: speculative decoding, and its plain counterpart.

    model.generate(**inputs, custom_generate=sparrow_generate, draft=draft)

`plain_generate` is the same loop without a draft, over the same cache and attention. It is what a
speedup has to be measured against.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteriaList,
)

from sparrow_kernels.decoding import (
    Committed,
    TreeConfig,
    commit_residual_step,
    commit_step,
    grow_tree,
    next_root,
    verify_step,
)
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.drafting.state import DraftState
from sparrow_kernels.models.families import VidLLM
from sparrow_kernels.models.request import Request, SparrowOutput
from sparrow_kernels.models.sequence import Streamer
from sparrow_kernels.models.target import Prefill
from sparrow_kernels.ops.env import checks


@torch.no_grad()
def sparrow_generate(
    model: VidLLM,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    synced_gpus: bool = False,
    streamer: Streamer | None = None,
    draft: SparrowDraft | None = None,
    tree: TreeConfig | str | None = None,
    generator: torch.Generator | None = None,
    **model_kwargs: Any,
) -> Tensor | SparrowOutput:
    """Decode with `draft`; the text is the target's own.

    Greedy output equals plain greedy decoding token for token (in float32; lower precisions round
    a verify of several rows and a decode of one differently). Sampled output has the target's
    distribution. transformers calls this with everything prepared; pass it as `custom_generate`.

    Args:
        draft: the trained draft; it must have been made for this target.
        tree: how much to draft, also as in `"30-4-8"`; None for the draft's own default.
        streamer: transformers does not forward one to a callable; bind it with
            `functools.partial`, or use `SparrowDecoder`.
        generator: what samples, on the target's device; None for torch's own. Calls that overlap
            in several threads share torch's own, and so do not repeat: give each its own.

    Returns:
        `[1, prompt + new]` int64, or a `SparrowOutput` with `return_dict_in_generate=True`.

    Raises:
        ValueError: no draft, a draft of another target, a target of an unknown family, a prompt
            longer than the context, or logits from which no token can be drawn.
        NotImplementedError: a mode other than greedy and sampling, a batch, padding, embeddings, a
            filled cache, scores asked for, or a streamer that is not bound.
        RuntimeError: the installed transformers does not use the cache that it is given.
    """
    if draft is None:
        raise ValueError(
            "sparrow_generate: draft must be a SparrowDraft, got None (pass draft=..., or use"
            " plain_generate)"
        )
    check_draft(draft, model)
    tree = tree_for(draft, tree)
    request = Request(
        model,
        input_ids,
        logits_processor,
        stopping_criteria,
        generation_config,
        streamer,
        model_kwargs,
        tree_nodes=tree.total,
        max_path=tree.max_path,
        generator=generator,
    )
    # The loop makes its own trees and lengths: checking them again would only cost time.
    with checks(False):
        prefill = request.prefill(slice_clip=draft.config.slice_clip)
        if not request.sequence.finished:
            _speculate(request, draft, tree, prefill)
    return request.result()


@torch.no_grad()
def plain_generate(
    model: VidLLM,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    synced_gpus: bool = False,
    streamer: Streamer | None = None,
    generator: torch.Generator | None = None,
    **model_kwargs: Any,
) -> Tensor | SparrowOutput:
    """Decode one token a target call, over our cache and attention. See `sparrow_generate`."""
    request = Request(
        model,
        input_ids,
        logits_processor,
        stopping_criteria,
        generation_config,
        streamer,
        model_kwargs,
        tree_nodes=1,
        max_path=1,
        generator=generator,
    )
    target, sequence = request.target, request.sequence
    with checks(False):
        request.prefill()
        while not sequence.finished:
            request.make_room()
            with request.timer.phase("verify"):
                logits = target.decode(request.last_token())
                target.cache.note_committed(sequence.length)
                token = request.chooser.after_sequence(logits)
            with request.timer.phase("commit"):
                request.stats.count_step(request.emit(token.tolist()))
    return request.result()


def check_draft(draft: SparrowDraft, target: VidLLM) -> None:
    """Raise `TypeError` where `draft` is none, `ValueError` where it is another target's."""
    if not isinstance(draft, SparrowDraft):
        raise TypeError(
            f"draft must be a SparrowDraft, got {type(draft).__name__}"
            " (load one with SparrowDraft.from_pretrained)"
        )
    draft.check_fits(target)


def tree_for(draft: SparrowDraft, tree: TreeConfig | str | None) -> TreeConfig:
    """The tree asked for, written or made; the draft's own where none is.

    Raises:
        TypeError: `tree` is neither.
        ValueError: it is written in no notation that `TreeConfig.parse` reads, or a node would have
            more children than there are tokens.
    """
    if tree is None:
        tree = TreeConfig(**draft.config.tree)
    elif isinstance(tree, str):
        tree = TreeConfig.parse(tree)
    elif not isinstance(tree, TreeConfig):
        raise TypeError(
            f"tree must be a TreeConfig, or text such as '30-4-8', got {type(tree).__name__}"
        )
    if tree.width > draft.config.vocab_size:
        raise ValueError(
            f"tree must have at most {draft.config.vocab_size} children a node, the draft's"
            f" vocabulary, got {tree}"
        )
    return tree


def _speculate(request: Request, draft: SparrowDraft, tree: TreeConfig, prefill: Prefill) -> None:
    """The loop: draft, verify, accept and commit, emit; until the sequence is complete."""
    sequence, target, timer = request.sequence, request.target, request.timer
    chooser, config = request.chooser, request.generation_config
    root = request.last_token()
    with timer.phase("draft_prefill"):
        state = _draft_state(request, draft, tree, prefill)
        root_hidden = state.prefill(
            torch.cat([prefill.text_tokens, root[:, None]], dim=1), prefill.text_hidden
        )
    text_rows = prefill.text_tokens.shape[1]
    del prefill
    residual = tree.branching is not None and bool(config.do_sample) and not chooser.reads_history
    temperature = (config.temperature or 1.0) if residual else 1.0
    committed: Committed | None = None
    while not sequence.finished:
        if request.make_room():
            state.enlarge(_draft_capacity(request, tree, text_rows))
        with timer.phase("draft"):
            if committed is not None:
                root = next_root(committed.acceptance)
                root_hidden = state.refresh(*committed)
            grown = grow_tree(state, tree, root, root_hidden, temperature, request.generator)
        with timer.phase("verify"):
            verified = verify_step(target, grown)
        with timer.phase("commit"):
            if residual:
                probs = chooser.probs(verified.logits)
                committed = commit_residual_step(
                    target, grown, verified, tree.max_path, probs, request.generator
                )
            else:
                committed = commit_step(target, grown, verified, tree.max_path, chooser)
            emitted = int(committed.acceptance.accept_length) + 1
            before = sequence.length
            kept = request.emit(committed.acceptance.tokens[0, :emitted].tolist())
            request.stats.count_step(kept)
            # All but the last emitted token are committed, as after plain decoding.
            if kept < emitted:
                target.cache.set_committed(before + kept - 1)
            else:
                target.cache.note_committed(sequence.length - 1)
    request.stats.cache_bytes += state.key_cache.nbytes + state.value_cache.nbytes


def _draft_state(
    request: Request, draft: SparrowDraft, tree: TreeConfig, prefill: Prefill
) -> DraftState:
    parts = request.parts
    vocabulary = draft.config.vocab_size
    banned = sorted(request.sequence.stop_ids | set(parts.placeholder_ids))
    banned = [token for token in banned if 0 <= token < vocabulary]
    return DraftState(
        draft.network_for(parts.embedding.weight),
        parts.embedding,
        parts.lm_head,
        draft.config.rope_theta,
        capacity=_draft_capacity(request, tree, prefill.text_tokens.shape[1]),
        banned=torch.tensor(banned, dtype=torch.int64, device=prefill.text_tokens.device),
    )


def _draft_capacity(request: Request, tree: TreeConfig, text_rows: int) -> int:
    sequence = request.sequence
    new_tokens = sequence.room.tokens - sequence.prompt_length
    # A refresh also writes the rows it turns out not to need.
    return text_rows + new_tokens + tree.max_path + tree.draft_slots
