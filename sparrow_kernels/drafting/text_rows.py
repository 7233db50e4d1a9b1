"""What a draft is trained on: the text rows of sequences, and what a frozen target left there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class TextRows(NamedTuple):
    """A batch of sequences, text rows only, padded on the right."""

    tokens: Tensor
    """`[B, R]` int64, the text tokens x_k with k >= 1."""
    hidden: Tensor
    """`[B, R, state_width]` for each the target's states at the slot before it, be that visual."""
    state: Tensor
    """`[B, R, H]` for each the target's top state at its own slot: what its output should be. Read
    at `response` alone."""
    response: Tensor
    """`[B, R]` bool, rows a tree may be rooted at: their token was emitted, and the token after
    them may be drafted (so not the last row, and not the one before a stop id)."""
    positions: Tensor | None = None
    """`[B, R]` int64 where a row's is not its number."""
    embeddings: Tensor | None = None
    """`[B, R, H]` where they are not those of the tokens."""
    clip: Tensor | None = None
    """`[B, C, H]` what stands for clips past `fc`, see `drafting.rows`. They lie before all of
    `response`."""
    clip_positions: Tensor | None = None
    """`[B, C]` int64."""
    runs_before: Tensor | None = None
    """`[B, R]` int64: how many runs of clips lie before each row."""
    clip_runs: tuple[tuple[int, ...], ...] = ()
    """The slots of each sequence's runs in `clip`; none where nothing stands past `fc`."""

    def of(self, chosen: Sequence[int] | slice) -> TextRows:
        """Some of the sequences."""
        places = range(len(self.tokens))
        wanted = list(places[chosen]) if isinstance(chosen, slice) else list(chosen)
        index = torch.tensor(wanted, device=self.tokens.device)
        parts: list[Any] = [None if each is None else each[index] for each in self[:-1]]
        parts.append(tuple(self.clip_runs[each] for each in wanted) if self.clip_runs else ())
        return TextRows(*parts)

    def to(self, device: torch.device | str) -> TextRows:
        """The same on `device`."""
        parts: list[Any] = [None if each is None else each.to(device) for each in self[:-1]]
        parts.append(self.clip_runs)
        return TextRows(*parts)

    def trimmed(self) -> TextRows:
        """Without what is behind the last response row: no loss of an earlier one reads it."""
        rows = self.response.any(dim=0).nonzero()
        end = int(rows[-1, 0]) + 1 if len(rows) else 1
        of_clip = ("clip", "clip_positions", "clip_runs")
        parts: dict[str, Any] = {
            name: each if name in of_clip or each is None else each[:, :end]
            for name, each in self._asdict().items()
        }
        return TextRows(**parts)


def stacked(sequences: Sequence[TextRows]) -> TextRows:
    """Batches side by side, padded on the right. All have the same parts."""

    def padded(parts: Sequence[Tensor | None]) -> Any:
        if parts[0] is None:
            return None
        rows = [row for part in parts if part is not None for row in part]
        return pad_sequence(rows, batch_first=True)

    columns = list(zip(*(sequence[:-1] for sequence in sequences), strict=True))
    runs = tuple(each for sequence in sequences for each in sequence.clip_runs)
    parts: list[Any] = [*map(padded, columns), runs]
    return TextRows(*parts)


def reached(response: Tensor, passes: int) -> Tensor:
    """`[B, R]` bool -> `[passes, B, R]`: the rows whose whole chain, root included, is response.

    Pass j's row i is the node at depth j - 1 below the root i - (j - 1).
    """
    rows = [response]
    for _ in range(1, passes):
        rows.append(F.pad(rows[-1], (1, -1)) & response)
    return torch.stack(rows)
