"""Drafts for the embedded target in any layout, trained for seconds on what it says of a few clips.

Enough to be right about every other token, which is what shows that a draft was read as it was
meant: one that was not is right by chance.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.drafting.losses import LossWeights
from sparrow_kernels.drafting.text_rows import TextRows
from sparrow_kernels.drafting.training_step import training_step
from sparrow_kernels.embedded.clips import make_clip, render
from sparrow_kernels.measuring.evaluation import QUESTION
from sparrow_kernels.models import SparrowDecoder
from sparrow_kernels.models.pair import draft_for, load_target
from sparrow_kernels.training.small_target import END, VIDEO, clip_inputs

CLIPS, TEXTS = 8, 32
BATCH = 4
STEPS = 25
PASSES = 2
NEW_TOKENS = 160


Sequence = tuple[Tensor, int, list[Tensor]]
"""Ids `[n]`, where the answer begins, and all states `[n, H]`, the embedding's first."""


@cache
def embedded() -> tuple[Any, Any]:
    """The embedded target and its processor, float32."""
    return load_target()


@cache
def question(seed: int, visual_tokens: int = 64) -> dict[str, Any]:
    """A clip to be described."""
    frames = render(make_clip(visual_tokens, seed))
    return dict(clip_inputs(embedded()[1], frames, 2.0, QUESTION))


@cache
def described() -> tuple[Sequence, ...]:
    """What the target says of each training clip."""
    target, _ = embedded()
    decoder = SparrowDecoder(target, draft_for(target))  # its words, sooner
    found = []
    for seed in range(CLIPS):
        inputs = question(seed)
        begin = inputs["input_ids"].shape[1]
        with torch.no_grad():
            settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
            ids = decoder.generate(**inputs, **settings).sequences
            states: list[Tensor] = []
            more = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if "mm_token_type_ids" in inputs:
                pad = ids.shape[1] - begin
                kinds = inputs["mm_token_type_ids"]
                more["mm_token_type_ids"] = torch.nn.functional.pad(kinds, (0, pad))
            output = target(**more, output_hidden_states=True)
            states = [each[0].float() for each in output.hidden_states]
        found.append((ids[0], begin, states))
    return tuple(found)


def asked() -> Tensor:
    """`[n]` a question without a clip."""
    _, processor = embedded()
    content = [{"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return torch.tensor(processor.tokenizer(text).input_ids)


@cache
def written() -> tuple[Sequence, ...]:
    """Answers without a clip, sampled: a draft that is probed with text has seen some."""
    target, prompt = embedded()[0], asked()
    torch.manual_seed(1)
    with torch.no_grad():
        ids = target.generate(
            input_ids=prompt.expand(TEXTS, -1),
            attention_mask=torch.ones(TEXTS, len(prompt), dtype=torch.int64),
            do_sample=True,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
        )
        output = target(input_ids=ids, output_hidden_states=True)
    states = [each.float() for each in output.hidden_states]
    return tuple((ids[row], len(prompt), [each[row] for each in states]) for row in range(TEXTS))


def rows_for(draft: SparrowDraft, texts: bool) -> TextRows:
    """All training clips, or texts too, as the draft reads them."""
    rules = draft.config.row_rules()
    batch = []
    for ids, begin, states in described() + (written() if texts else ()):
        plan = rules.plan(ids == VIDEO)
        layers = rules.layer_ids or (len(states) - 1,)
        hidden = torch.cat([states[each] for each in layers], dim=-1)[plan.before]
        emitted = plan.rows >= begin
        following = ids[(plan.rows + 1).clamp_max(len(ids) - 1)]
        response = emitted & (plan.rows < len(ids) - 1) & (following != END)
        batch.append((ids[plan.rows], hidden, states[-1][plan.rows], response))
    tokens, hidden, top, response = zip(*batch, strict=True)
    return TextRows(
        pad_sequence(list(tokens), True),
        pad_sequence(list(hidden), True),
        pad_sequence(list(top), True),
        pad_sequence(list(response), True, False),
    )


def trained(
    steps: int = STEPS, seed: int = 0, texts: bool = False, passes: int = PASSES, **settings: Any
) -> SparrowDraft:
    """A draft with these settings of `SparrowDraftConfig`, float32; `texts`: of those too."""
    target, _ = embedded()
    torch.manual_seed(seed)
    tree = {"total": 6, "depth": 5, "width": 1}
    draft = SparrowDraft.for_target(target, tree=tree, **settings).float()
    if draft.config.draft_vocab_size is not None:
        draft.network.draft_ids.copy_(said()[: draft.config.draft_vocab_size].sort().values)
    rows = rows_for(draft, texts)
    optimizer = torch.optim.AdamW(draft.parameters(), lr=4e-3, betas=(0.9, 0.95))
    random = torch.Generator().manual_seed(seed)
    for step in range(steps):
        drawn = torch.randperm(len(rows.tokens), generator=random)[:BATCH]
        batch = rows.of(drawn.tolist())
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1.0, (step + 1) / 10, 2 * (1 - step / steps))
        training_step(
            draft.network,
            optimizer,
            target.get_input_embeddings(),
            target.lm_head,
            [batch],
            passes=passes,
            weights=LossWeights(1.0, 0.0, 0.9),
            theta=draft.config.rope_theta,
        )
    return draft.eval()


def said() -> Tensor:
    """Ids by how often the answers hold them, the most frequent first; the others behind."""
    vocabulary = embedded()[0].config.get_text_config().vocab_size
    counts = torch.zeros(vocabulary)
    for ids, begin, _ in described():
        counts += torch.bincount(ids[begin:], minlength=vocabulary)
    return counts.argsort(descending=True, stable=True)
