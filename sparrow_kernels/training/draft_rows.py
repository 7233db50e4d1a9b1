"""What a frozen target leaves at the rows of training clips: a draft's training data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    cached = {cache_keyword(language_model): DynamicCache(), "use_cache": True}
    prefix = _States(
        language_model(
            inputs_embeds=prefix_embeddings,
            position_ids=batch.prefix_positions[:, None].expand(-1, clips, -1),
            output_hidden_states=True,
            **cached,
        )
    )
    exchanges = _States(
        language_model(
            inputs_embeds=text_embeddings,
            position_ids=batch.text_positions.expand(3, -1, -1),
            attention_mask=_exchange_mask(batch.segments, len(batch.prefix_ids)),
            output_hidden_states=True,
            **cached,
        )
    )
    sequences: tuple[list[TextRows], list[TextRows]] = ([], [])
    for clip in range(clips):
        for segment in range(int(batch.segments[clip].max()) + 1):
            own = batch.segments[clip] == segment
            labels = batch.labels[clip, own]

            def joined(before: Tensor, after: Tensor, own: Tensor = own) -> Tensor:
                return torch.cat([before, after[own]])

            ids = joined(batch.prefix_ids, batch.text_ids[clip])
            plan = rules.plan(ids == VIDEO)
            states = joined(prefix.of(clip, rules.layer_ids), exchanges.of(clip, rules.layer_ids))
            middle = None
            if rules.clip_layer is not None:
                middle = prefix.of(clip, (rules.clip_layer,))[plan.clip]
            rows = rules.rows(
                plan,
                ids,
                torch.arange(len(ids)),
                states[plan.before],
                joined(prefix_embeddings[clip], text_embeddings[clip]),
                middle,
            )
            top = joined(prefix.of(clip, None), exchanges.of(clip, None))
            response = F.pad(_response(labels), (len(batch.prefix_ids), 0))
            sequences[segment > 0].append(
                TextRows(
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
            )
    return _stacked(sequences[0]), _stacked(sequences[1])


class _States:
    """A forward's hidden states."""

    def __init__(self, output: Any) -> None:
        self._all = output.hidden_states

    def of(self, clip: int, layer_ids: Sequence[int] | None) -> Tensor:
        """`[n, L*H]` of one clip; None for the top ones."""
        return torch.cat([self._all[each][clip] for each in layer_ids or (-1,)], dim=-1)


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
