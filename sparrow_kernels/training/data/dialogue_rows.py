"""Rows of a user's dialogues: read, run through the target, and put together in groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from sparrow_kernels.drafting.rows import RowRules
from sparrow_kernels.drafting.text_rows import TextRows, stacked
from sparrow_kernels.models.sequence import SequenceReader
from sparrow_kernels.training.data.cache import StateCache
from sparrow_kernels.training.data.dialogues import DataError, Dialogue
from sparrow_kernels.training.data.encoding import Encoder
from sparrow_kernels.training.data.rows import text_rows, wanted_layers


class DialogueRows:
    """Implements `RowSource`. An epoch takes each dialogue once, in an order of its own.

    Args:
        target: what is run.
        encoder: its dialogues.
        batch: dialogues of a step, of all processes together.
        rows_at_once: most rows of a group, padding included; one dialogue is never split.
        share: this process's of each batch, `(number, of so many)`.
        on_wrong: called for a dialogue that cannot be used, which is then left out; None raises.
    """

    def __init__(
        self,
        target: Any,
        encoder: Encoder,
        dialogues: Sequence[Dialogue],
        rules: RowRules,
        *,
        batch: int = 8,
        rows_at_once: int = 4096,
        seed: int = 0,
        share: tuple[int, int] = (0, 1),
        cache: StateCache | None = None,
        on_wrong: Callable[[DataError], None] | None = None,
    ) -> None:
        self._encoder, self._dialogues, self._rules = encoder, dialogues, rules
        self._reader = SequenceReader(target, wanted_layers(rules))
        self._batch, self._rows_at_once, self._seed = batch, rows_at_once, seed
        self._number, self._of = share
        self._cache, self._on_wrong = cache, on_wrong
        self._empty: set[int] = set()
        self._epoch = -1
        self._order: list[int] = []

    def groups(self, step: int) -> Sequence[TextRows]:
        """See `RowSource`."""
        mine = range(step * self._batch + self._number, (step + 1) * self._batch, self._of)
        found = [self.rows(self._at(place)) for place in mine]
        rows = sorted((each for each in found if each is not None), key=_length)
        groups: list[list[TextRows]] = []
        for each in rows:
            if groups and _length(each) * (len(groups[-1]) + 1) <= self._rows_at_once:
                groups[-1].append(each)
            else:
                groups.append([each])
        return [stacked(group) for group in groups]

    def rows(self, number: int) -> TextRows | None:
        """The rows of one dialogue; None where there is nothing in it to draft, such as answers of
        one token, or where it cannot be used and is left out."""
        if number in self._empty:
            return None
        dialogue = self._dialogues[number]
        try:
            kept = None if self._cache is None else self._cache.get(dialogue)
            if kept is not None:
                return kept
            encoded = self._encoder(dialogue)
        except DataError as error:
            if self._on_wrong is None:
                raise
            self._on_wrong(error)
            self._leave_out(number)
            return None
        if not bool(encoded.response.any()):
            self._leave_out(number)
            return None
        (states,) = self._reader(encoded.inputs)
        rows = text_rows(states, encoded.response.to(states.ids.device), self._rules).trimmed()
        if self._cache is not None:
            rows = rows.to("cpu")
            self._cache.put(dialogue, rows)
        return rows

    def _leave_out(self, number: int) -> None:
        self._empty.add(number)
        if len(self._empty) == len(self._dialogues):
            raise ValueError(
                f"data must hold a dialogue that a draft can learn from, got none among the"
                f" {len(self._dialogues)} that were read"
            )

    def _at(self, place: int) -> int:
        """The dialogue at a place of the run's endless order."""
        epoch, place = divmod(place, len(self._dialogues))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            self._order = torch.randperm(len(self._dialogues), generator=generator).tolist()
            self._epoch = epoch
        return self._order[place]


def _length(rows: TextRows) -> int:
    """Rows that a dialogue takes, those that stand for clips included."""
    return rows.tokens.shape[1] + (0 if rows.clip is None else rows.clip.shape[1])
