"""Batches of the package's own clips for a draft of the small target, without drawing a frame.

A clip's visual tokens are put together from those of single tiles (`clip_features`), and its long
prompt is run once for all exchanges about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, Qwen2_5_VLForConditionalGeneration

from sparrow_kernels.drafting.rows import TEXT_ALONE, RowRules
from sparrow_kernels.drafting.text_rows import TextRows, stacked
from sparrow_kernels.embedded.recipe import LanguageStage
from sparrow_kernels.models.bridge.names import cache_keyword
from sparrow_kernels.models.sequence import SequenceStates
from sparrow_kernels.training.data.rows import response_slots, text_rows, wanted_layers
from sparrow_kernels.training.small_target import END, VIDEO
from sparrow_kernels.training.target.language import BatchMaker, ClipBatch


class ClipStates:
    """What the target leaves at generated clips, by step; for all drafts that are trained on them.

    Those of a step depend on the seed and the step alone.

    Args:
        target: the small target.
        maker: draws the clips and their exchanges.
        clips: which clips.
        rules: how the drafts read them.
    """

    def __init__(
        self, target: Any, maker: BatchMaker, clips: LanguageStage, rules: Sequence[RowRules]
    ) -> None:
        self._target, self._maker, self._clips, self._rules = target, maker, clips, rules
        self._step = -1
        self._states: tuple[list[Exchange], list[Exchange]] = ([], [])

    def __call__(self, step: int) -> tuple[list[Exchange], list[Exchange]]:
        """The step's captions, and its short answers."""
        if step != self._step:
            batch = self._maker(self._clips, step)
            self._states, self._step = batch_states(self._target, batch, *self._rules), step
        return self._states


class EmbeddedClips:
    """Implements `RowSource`.

    Args:
        states: of all of a step's clips.
        rules: how the draft reads them.
        share: this process's of each batch's sequences, `(number, of so many)`.
    """

    def __init__(
        self, states: ClipStates, rules: RowRules, share: tuple[int, int] = (0, 1)
    ) -> None:
        self._states, self._rules = states, rules
        self._number, self._of = share

    def groups(self, step: int) -> Sequence[TextRows]:
        """The captions' rows and those of the short answers, whose lengths differ."""
        shared = (kind[self._number :: self._of] for kind in self._states(step))
        return [rows_of(kind, self._rules) for kind in shared if kind]


class Exchange(NamedTuple):
    """One question about a clip and its answer, behind the clip's prompt."""

    states: SequenceStates
    response: Tensor
    """`[n]` bool."""


def rows_of(exchanges: Sequence[Exchange], rules: RowRules) -> TextRows:
    """Their rows as one batch."""
    return stacked([text_rows(each.states, each.response, rules) for each in exchanges])


@torch.no_grad()
def batch_states(
    target: Qwen2_5_VLForConditionalGeneration, batch: ClipBatch, *rules: RowRules
) -> tuple[list[Exchange], list[Exchange]]:
    """Run the target once over a batch: its captions, and its short answers.

    Args:
        rules: of the drafts that are to be trained on it.
    """
    language_model = target.model.language_model
    clips = len(batch.visual)
    is_video = batch.prefix_ids == VIDEO
    prefix_embeddings = language_model.embed_tokens(batch.prefix_ids).repeat(clips, 1, 1)
    prefix_embeddings[:, is_video] = batch.visual
    text_embeddings = language_model.embed_tokens(batch.text_ids)
    wanted = set().union(*(wanted_layers(each) for each in rules or (TEXT_ALONE,)))
    asked = {
        cache_keyword(language_model): DynamicCache(),
        "use_cache": True,
        "output_hidden_states": bool(wanted),
    }
    prefix = _Run(
        batch.prefix_ids.expand(clips, -1),
        batch.prefix_positions[:, None].expand(-1, clips, -1),
        prefix_embeddings,
        language_model(
            inputs_embeds=prefix_embeddings,
            position_ids=batch.prefix_positions[:, None].expand(-1, clips, -1),
            **asked,
        ),
    )
    exchanges = _Run(
        batch.text_ids,
        batch.text_positions.expand(3, -1, -1),
        text_embeddings,
        language_model(
            inputs_embeds=text_embeddings,
            position_ids=batch.text_positions.expand(3, -1, -1),
            attention_mask=_exchange_mask(batch.segments, len(batch.prefix_ids)),
            **asked,
        ),
    )
    kinds: tuple[list[Exchange], list[Exchange]] = ([], [])
    for clip in range(clips):
        for segment in range(int(batch.segments[clip].max()) + 1):
            own = batch.segments[clip] == segment
            states = _joined(prefix.part(clip, wanted), exchanges.part(clip, wanted, own))
            # A label is the emitted token after; the first emitted one follows the first label.
            emitted = F.pad(batch.labels[clip, own] >= 0, (len(batch.prefix_ids) + 1, -1))
            response = response_slots(states.ids, emitted, torch.tensor([END]))
            kinds[segment > 0].append(Exchange(states, response))
    return kinds


class _Run:
    """What went into a forward of clips, and its states."""

    def __init__(self, ids: Tensor, positions: Tensor, embeddings: Tensor, output: Any) -> None:
        self.ids, self.positions, self.embeddings = ids, positions, embeddings
        self.top: Tensor = output.last_hidden_state
        self.inner: tuple[Tensor, ...] = output.hidden_states or ()

    def part(
        self, clip: int, wanted: set[int], own: Tensor | slice = slice(None)
    ) -> SequenceStates:
        """Some tokens of one clip."""
        ids = self.ids[clip, own]
        return SequenceStates(
            ids,
            ids == VIDEO,
            self.positions[:, clip, own],
            self.embeddings[clip, own],
            self.top[clip, own],
            {each: self.inner[each][clip, own] for each in wanted},
        )


def _joined(first: SequenceStates, second: SequenceStates) -> SequenceStates:
    """One after the other."""
    inner = {each: torch.cat([first.inner[each], second.inner[each]]) for each in first.inner}
    return SequenceStates(
        torch.cat([first.ids, second.ids]),
        torch.cat([first.visual, second.visual]),
        torch.cat([first.positions, second.positions], dim=-1),
        torch.cat([first.embeddings, second.embeddings]),
        torch.cat([first.top, second.top]),
        inner,
    )


def _exchange_mask(segments: Tensor, prefix: int) -> Tensor:
    """`[B, 1, S, prefix + S]` bool: a token sees the prefix and its own exchange up to itself."""
    own = (segments[:, :, None] == segments[:, None, :]).tril()
    return F.pad(own, (prefix, 0), value=True)[:, None]
