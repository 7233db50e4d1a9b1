"""The growing sequence of one request: what is emitted, streamed, and where it stops."""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor
from transformers import StoppingCriteriaList
from transformers.generation import EosTokenCriteria, MaxLengthCriteria

from sparrow_kernels.models.room import Room


class Streamer(Protocol):
    """transformers' streamer: prompt first, then new ids as they are emitted."""

    def put(self, value: Tensor) -> None: ...
    def end(self) -> None: ...


class EmittedSequence:
    """Prompt and emitted tokens `[1, length]`, in a buffer that grows with its `room`.

    Length and stop ids are looked up on the host; any other criterion is called with the ids up
    to and including each token, exactly as plain decoding calls it.
    """

    def __init__(
        self,
        input_ids: Tensor,
        stopping_criteria: StoppingCriteriaList,
        max_length: int,
        streamer: Streamer | None,
    ) -> None:
        self.prompt_length = input_ids.shape[1]
        self.length = self.prompt_length
        self.finished = False
        self._streamer = streamer
        if streamer is not None:
            streamer.put(input_ids.cpu())
        self._max_length = max_length
        self.stop_ids: set[int] = set()
        self._other_criteria = StoppingCriteriaList()
        self._verdicts: dict[int, bool] = {}
        for criterion in stopping_criteria:
            if type(criterion) is MaxLengthCriteria:
                self._max_length = min(self._max_length, criterion.max_length)
            elif type(criterion) is EosTokenCriteria:
                self.stop_ids |= set(criterion.eos_token_id.flatten().tolist())
            else:
                self._other_criteria.append(criterion)
        self.room = Room(self.prompt_length, self._max_length)
        self._buffer = input_ids.new_zeros((1, self.room.tokens))
        self._buffer[:, : self.length] = input_ids

    @property
    def ids(self) -> Tensor:
        """`[1, length]` int64."""
        return self._buffer[:, : self.length]

    @property
    def max_length(self) -> int:
        """Tokens the sequence may have at most, prompt included."""
        return self._max_length

    def make_room(self, tokens: int) -> bool:
        """Make room for `tokens` more; whether the room grew, and other buffers have to follow."""
        grows = self.room.grows_for(self.length + tokens)
        if grows:
            ids = self.ids
            self._buffer = ids.new_zeros((1, self.room.tokens))
            self._buffer[:, : self.length] = ids
        return grows

    def stops_at(self, ids: Tensor, token: int) -> bool:
        """Whether a sequence `ids` `[1, length]` that ends in `token` is complete.

        Asked again about the same length, as when a walked path is then emitted, it remembers:
        criteria may count their calls.
        """
        length = ids.shape[1]
        if length not in self._verdicts:
            others = self._other_criteria
            stopped = bool(others) and bool(others(cast(Any, ids), cast(Any, None)).all())
            known = token in self.stop_ids or length >= self._max_length
            self._verdicts[length] = stopped or known
        return self._verdicts[length]

    def emit(self, tokens: list[int]) -> int:
        """Append tokens one by one until one completes the sequence; returns how many were kept."""
        kept = 0
        for token in tokens:
            self._buffer[0, self.length] = token
            self.length += 1
            kept += 1
            if self.stops_at(self.ids, token):
                self.finished = True
                break
        self._verdicts.clear()
        if self._streamer is not None:
            self._streamer.put(torch.tensor(tokens[:kept], device="cpu"))
            if self.finished:
                self._streamer.end()
        return kept
