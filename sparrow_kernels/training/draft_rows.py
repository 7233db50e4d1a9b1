"""What a frozen target leaves at the text rows of training clips: a draft's training data."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, Qwen2_5_VLForConditionalGeneration

from sparrow_kernels.drafting.training_step import TextRows
from sparrow_kernels.models.bridge.names import cache_keyword
from sparrow_kernels.training.small_target import END, PAD, VIDEO
from sparrow_kernels.training.target.language import ClipBatch


@torch.no_grad()
def text_rows(
    target: Qwen2_5_VLForConditionalGeneration, batch: ClipBatch
) -> tuple[TextRows, TextRows]:
    """Run the target once over a batch; rows of its captions, and of its short answers.

    Every exchange becomes a sequence of its own, led by the prompt's text before it. The two
    kinds come apart because their lengths do: padded together most rows would be padding.
    """
    language_model = target.model.language_model
    clips = len(batch.visual)
    is_video = batch.prefix_ids == VIDEO
    prefix_embeddings = language_model.embed_tokens(batch.prefix_ids).repeat(clips, 1, 1)
    prefix_embeddings[:, is_video] = batch.visual
    cached = {cache_keyword(language_model): DynamicCache(), "use_cache": True}
    prefix = language_model(
        inputs_embeds=prefix_embeddings,
        position_ids=batch.prefix_positions[:, None].expand(-1, clips, -1),
        **cached,
    ).last_hidden_state
    exchanges = language_model(
        inputs_embeds=language_model.embed_tokens(batch.text_ids),
        position_ids=batch.text_positions.expand(3, -1, -1),
        attention_mask=_exchange_mask(batch.segments, prefix.shape[1]),
        **cached,
    ).last_hidden_state

    text_slots = (~is_video).nonzero().flatten()
    rows = text_slots[1:]
    lead = _Lead(batch.prefix_ids[rows], prefix[:, rows - 1], prefix[:, rows], prefix[:, -1])
    sequences: tuple[list[TextRows], list[TextRows]] = ([], [])
    for clip in range(clips):
        for segment in range(int(batch.segments[clip].max()) + 1):
            of_exchange = batch.segments[clip] == segment
            sequences[segment > 0].append(
                lead.followed_by(
                    clip,
                    batch.text_ids[clip, of_exchange],
                    exchanges[clip, of_exchange],
                    batch.labels[clip, of_exchange],
                )
            )
    return _stacked(sequences[0]), _stacked(sequences[1])


def _exchange_mask(segments: Tensor, prefix: int) -> Tensor:
    """`[B, 1, S, prefix + S]` bool: a token sees the prefix and its own exchange up to itself."""
    own = (segments[:, :, None] == segments[:, None, :]).tril()
    return F.pad(own, (prefix, 0), value=True)[:, None]


class _Lead:
    """The prompt's text rows before an exchange; the same tokens for all clips of a batch."""

    def __init__(self, tokens: Tensor, hidden: Tensor, state: Tensor, last: Tensor) -> None:
        self._tokens, self._hidden, self._state, self._last = tokens, hidden, state, last

    def followed_by(self, clip: int, tokens: Tensor, state: Tensor, labels: Tensor) -> TextRows:
        """One sequence, `[R]` and `[R, H]`. A token's label is the one after it, if emitted."""
        emitted_next = labels >= 0
        emitted = F.pad(emitted_next, (1, -1))
        response = emitted & emitted_next & (labels != END)
        before = torch.cat([self._last[clip, None], state[:-1]])
        return TextRows(
            torch.cat([self._tokens, tokens]),
            torch.cat([self._hidden[clip], before]),
            torch.cat([self._state[clip], state]),
            F.pad(response, (len(self._tokens), 0)),
        )


def _stacked(sequences: list[TextRows]) -> TextRows:
    """Sequences side by side, padded on the right."""
    tokens, hidden, state, response = zip(*sequences, strict=True)

    def pad(rows: tuple[Tensor, ...], value: float = 0.0) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)

    return TextRows(pad(tokens, PAD), pad(hidden), pad(state), pad(response, False))
