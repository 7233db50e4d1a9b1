"""What a frozen target leaves at the rows of training clips: a draft's training data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, Qwen2_5_VLForConditionalGeneration

from sparrow_kernels.drafting.rows import TEXT_ALONE, RowRules
from sparrow_kernels.drafting.training_step import TextRows
from sparrow_kernels.models.bridge.names import cache_keyword
from sparrow_kernels.training.small_target import END, PAD, VIDEO
from sparrow_kernels.training.target.language import ClipBatch


@torch.no_grad()
def text_rows(
    target: Qwen2_5_VLForConditionalGeneration, batch: ClipBatch, rules: RowRules = TEXT_ALONE
) -> tuple[TextRows, TextRows]:
    """Run the target once over a batch; rows of its captions, and of its short answers.

    Every exchange becomes a sequence of its own, led by the prompt before it. The two kinds come
    apart because their lengths do: padded together most rows would be padding.

    Args:
        rules: how the draft reads them.
    """
    language_model = target.model.language_model
    clips = len(batch.visual)
    is_video = batch.prefix_ids == VIDEO
    prefix_embeddings = language_model.embed_tokens(batch.prefix_ids).repeat(clips, 1, 1)
    prefix_embeddings[:, is_video] = batch.visual
    text_embeddings = language_model.embed_tokens(batch.text_ids)
    reads_inner = rules.layer_ids is not None or rules.clip_layer is not None
    asked = {
        cache_keyword(language_model): DynamicCache(),
        "use_cache": True,
        "output_hidden_states": reads_inner,
    }
    prefix = _Run(
        batch.prefix_ids.expand(clips, -1),
        prefix_embeddings,
        language_model(
            inputs_embeds=prefix_embeddings,
            position_ids=batch.prefix_positions[:, None].expand(-1, clips, -1),
            **asked,
        ),
    )
    exchanges = _Run(
        batch.text_ids,
        text_embeddings,
        language_model(
            inputs_embeds=text_embeddings,
            position_ids=batch.text_positions.expand(3, -1, -1),
            attention_mask=_exchange_mask(batch.segments, len(batch.prefix_ids)),
            **asked,
        ),
    )
    sequences: tuple[list[TextRows], list[TextRows]] = ([], [])
    for clip in range(clips):
        for segment in range(int(batch.segments[clip].max()) + 1):
            own = batch.segments[clip] == segment
            response = F.pad(_response(batch.labels[clip, own]), (len(batch.prefix_ids), 0))
            sequences[segment > 0].append(
                _sequence(rules, prefix.part(clip), exchanges.part(clip, own), response)
            )
    return _stacked(sequences[0]), _stacked(sequences[1])


class _Run:
    """What went into a forward of clips, and its states."""

    def __init__(self, ids: Tensor, embeddings: Tensor, output: Any) -> None:
        self.ids, self.embeddings, self.top = ids, embeddings, output.last_hidden_state
        self.inner: tuple[Tensor, ...] = output.hidden_states or ()

    def part(self, clip: int, own: Tensor | slice = slice(None)) -> _Part:
        """Some tokens of one clip."""
        inner = [states[clip, own] for states in self.inner]
        return _Part(self.ids[clip, own], self.embeddings[clip, own], self.top[clip, own], inner)


class _Part(NamedTuple):
    """Tokens `[n]`, and `[n, H]` their embeddings, top states and those of every layer."""

    ids: Tensor
    embeddings: Tensor
    top: Tensor
    inner: list[Tensor]


def _sequence(rules: RowRules, prefix: _Part, exchange: _Part, response: Tensor) -> TextRows:
    """One exchange behind its prompt, as the draft reads it; `response` `[n]` of all tokens."""
    ids = torch.cat([prefix.ids, exchange.ids])
    top = torch.cat([prefix.top, exchange.top])
    plan = rules.plan(ids == VIDEO)
    states = top
    if rules.layer_ids is not None:
        layers = [torch.cat([prefix.inner[i], exchange.inner[i]]) for i in rules.layer_ids]
        states = torch.cat(layers, dim=-1)
    rows = rules.rows(
        plan,
        ids,
        torch.arange(len(ids)),
        states[plan.before],
        torch.cat([prefix.embeddings, exchange.embeddings]),
        None if rules.clip_layer is None else prefix.inner[rules.clip_layer][plan.clip],
    )
    return TextRows(
        rows.tokens,
        rows.states,
        top[plan.rows],
        response[plan.rows],
        rows.positions,
        rows.embeddings,
        rows.clip,
        rows.clip_positions,
        rows.runs_before,
    )


def _response(labels: Tensor) -> Tensor:
    """Tokens of an exchange that a tree may be rooted at; a label is the emitted token after."""
    emitted_next = labels >= 0
    emitted = F.pad(emitted_next, (1, -1))
    return emitted & emitted_next & (labels != END)


def _exchange_mask(segments: Tensor, prefix: int) -> Tensor:
    """`[B, 1, S, prefix + S]` bool: a token sees the prefix and its own exchange up to itself."""
    own = (segments[:, :, None] == segments[:, None, :]).tril()
    return F.pad(own, (prefix, 0), value=True)[:, None]


def _stacked(sequences: list[TextRows]) -> TextRows:
    """Sequences side by side, padded on the right. Their clips are of one length."""

    def pad(rows: Sequence[Tensor | None], value: float = 0.0) -> Any:
        if rows[0] is None:
            return None
        return torch.nn.utils.rnn.pad_sequence(
            [row for row in rows if row is not None], batch_first=True, padding_value=value
        )

    tokens, *others = zip(*sequences, strict=True)
    return TextRows(pad(tokens, PAD), *(pad(rows) for rows in others))
