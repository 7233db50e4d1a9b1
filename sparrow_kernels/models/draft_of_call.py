"""The draft of a call: whether it fits, how much it drafts, and its state behind a prompt."""

from __future__ import annotations

import torch

from sparrow_kernels.decoding import AutoTree, TreeConfig
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.drafting.head import draft_head
from sparrow_kernels.drafting.rows import PromptRows, RowRules
from sparrow_kernels.drafting.state import DraftState
from sparrow_kernels.models.families import VidLLM
from sparrow_kernels.models.parallel import is_split
from sparrow_kernels.models.request import Request


def check_draft(draft: SparrowDraft, target: VidLLM) -> None:
    """Raise `TypeError` where `draft` is none, `ValueError` where it is another target's."""
    if not isinstance(draft, SparrowDraft):
        raise TypeError(
            f"draft must be a SparrowDraft, got {type(draft).__name__}"
            " (load one with load_draft(path, target), or SparrowDraft.from_pretrained(path))"
        )
    draft.check_fits(target)


def tree_for(
    draft: SparrowDraft, tree: TreeConfig | AutoTree | str | None
) -> TreeConfig | AutoTree:
    """The tree asked for, written or made; the draft's own where none is.

    Raises:
        TypeError: `tree` is neither.
        ValueError: it is written in no notation that `TreeConfig.parse` reads, or a node would have
            more children than there are tokens.
    """
    if isinstance(tree, AutoTree):
        for candidate in tree.candidates:
            tree_for(draft, candidate)
        return tree
    if tree is None:
        tree = TreeConfig(**draft.config.tree)
    elif isinstance(tree, str):
        tree = TreeConfig.parse(tree)
    elif not isinstance(tree, TreeConfig):
        raise TypeError(
            f"tree must be a TreeConfig, or text such as '30-4-8', got {type(tree).__name__}"
        )
    size = draft.draft_vocabulary_size
    if tree.width > size:
        raise ValueError(
            f"tree must have at most {size} children a node, the draft's vocabulary, got {tree}"
        )
    return tree


def draft_state(
    request: Request,
    draft: SparrowDraft,
    tree: TreeConfig,
    prompts: list[PromptRows],
    rules: RowRules,
) -> DraftState:
    """The draft of a call, begun with its prompts' rows, which `rules` have made."""
    parts, workspace = request.parts, request.workspace
    like = torch.empty(0, dtype=parts.embedding.weight.dtype, device=parts.device)
    banned = sorted(request.stops.ids | set(parts.placeholder_ids))
    banned = [token for token in banned if 0 <= token < draft.config.vocab_size]
    # Of a head that is split or offloaded no rows can be taken.
    is_whole = parts.lm_head.weight.device == parts.device and not is_split(parts.model)
    network = draft.network_for(like)
    is_sliced = is_whole and draft.config.draft_vocab_size is None
    vocabulary = draft.draft_vocabulary if is_sliced else None
    theta = draft.config.rope_theta
    sizes = (tree.draft_slots, tree.max_path)
    made_for = (id(network), *sizes, tuple(banned), vocabulary, rules, theta)
    new_tokens = request.emission.new_token_room
    if workspace.draft is None or workspace.draft_made_for != made_for:
        is_banned = torch.tensor(banned, dtype=torch.int64, device=like.device)
        workspace.draft = DraftState(
            network,
            parts.embedding,
            draft_head(network, parts.lm_head, is_banned, vocabulary, draft.config.vocab_size),
            theta,
            prompts,
            new_tokens,
            tree_slots=tree.draft_slots,
            max_path=tree.max_path,
            rules=rules,
        )
        workspace.draft_made_for, workspace.made_for = made_for, None
    elif workspace.draft.begin(prompts, new_tokens) and workspace.graphs is not None:
        workspace.graphs.moved()
    return workspace.draft
