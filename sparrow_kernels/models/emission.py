"""The host's side of a call: what each request has emitted, what is streamed, where it stops."""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor
from transformers import StoppingCriteriaList
from transformers.generation import EosTokenCriteria, MaxLengthCriteria

from sparrow_kernels.decoding.loop import Cut
from sparrow_kernels.decoding.stats import DecodeStats
from sparrow_kernels.models.room import Room


class Streamer(Protocol):
    """transformers' streamer: prompt first, then new ids as they are emitted."""

    def put(self, value: Tensor) -> None: ...
    def end(self) -> None: ...


class Stops:
    """When a sequence is complete: by length, by a stop id, or as the caller's criteria say."""

    def __init__(self, criteria: StoppingCriteriaList, max_length: int) -> None:
        self.max_length = max_length
        """Tokens a sequence may have at most, prompt and its padding included."""
        self.ids: set[int] = set()
        self.others = StoppingCriteriaList()
        for criterion in criteria:
            if type(criterion) is MaxLengthCriteria:
                self.max_length = min(self.max_length, criterion.max_length)
            elif type(criterion) is EosTokenCriteria:
                self.ids |= set(criterion.eos_token_id.flatten().tolist())
            else:
                self.others.append(criterion)


class Sequence:
    """One request's ids, padding and prompt first, as plain decoding would hand them around.

    They lie in a buffer on the device, which is written only if someone reads it there.
    """

    def __init__(self, prompt: Tensor, padding: int, stops: Stops, is_read: bool) -> None:
        self.prompt_length, self.padding = len(prompt), padding
        self.new: list[int] = []
        self.finished = False
        self._stops, self._is_read = stops, is_read
        self._buffer = prompt[None]
        self._verdicts: dict[int, bool] = {}

    @property
    def length(self) -> int:
        """Tokens so far, padding included."""
        return self.prompt_length + len(self.new)

    @property
    def slots(self) -> int:
        """Cache slots that all tokens but the last take."""
        return self.length - self.padding - 1

    @property
    def ids(self) -> Tensor:
        """`[1, length]` int64, for processors and criteria."""
        return self._buffer[:, : self.length]

    def stops_at(self, ids: Tensor, token: int) -> bool:
        """Whether a sequence `ids` `[1, length]` that ends in `token` is complete.

        Asked again about the same length, as when a walked path is then emitted, it remembers:
        criteria may count their calls.
        """
        return self._stops_at(ids.shape[1], token, ids)

    def _stops_at(self, length: int, token: int, ids: Tensor | None) -> bool:
        if length not in self._verdicts:
            others = self._stops.others
            stopped = bool(others) and bool(others(cast(Any, ids), cast(Any, None)).all())
            known = token in self._stops.ids or length >= self._stops.max_length
            self._verdicts[length] = stopped or known
        return self._verdicts[length]

    def extend(self, tokens: list[int]) -> int:
        """Append tokens one by one until one completes the sequence; how many were kept."""
        if self._is_read:
            self._write(tokens)
        begun, kept = self.length, 0
        for token in tokens:
            self.new.append(token)
            kept += 1
            ids = self._buffer[:, : begun + kept] if self._is_read else None
            if self._stops_at(begun + kept, token, ids):
                self.finished = True
                break
        self._verdicts.clear()
        return kept

    def _write(self, tokens: list[int]) -> None:
        end = self.length + len(tokens)
        if end > self._buffer.shape[1]:
            larger = self._buffer.new_zeros((1, max(end, 2 * self._buffer.shape[1])))
            larger[:, : self.length] = self.ids
            self._buffer = larger
        self._buffer[0, self.length : end] = self._buffer.new_tensor(tokens)


class Emission:
    """All requests of a call: implements `sparrow_kernels.decoding.loop.Emission`.

    Args:
        input_ids: `[B, n]` prompts, padded on the left.
        padding: padding tokens of each.
        stops: when a sequence is complete.
        ids_are_read: whether processors or criteria look at the ids so far.
        pad_token_id: what stands behind a sequence that is shorter than another.
        streamer: told of a single request's ids.
        stats: counts what is emitted.
    """

    def __init__(
        self,
        input_ids: Tensor,
        padding: list[int],
        stops: Stops,
        ids_are_read: bool,
        pad_token_id: int | None,
        streamer: Streamer | None,
        stats: DecodeStats,
    ) -> None:
        self._input_ids, self._pad = input_ids, pad_token_id or 0
        self._streamer, self._stats = streamer, stats
        self.sequences = [
            Sequence(prompt, count, stops, ids_are_read)
            for prompt, count in zip(input_ids, padding, strict=True)
        ]
        self._longest_prompt = input_ids.shape[1] - min(padding)
        self._room = Room(input_ids.shape[1], stops.max_length)
        self._copy: _CopyToHost | None = None
        if streamer is not None:
            streamer.put(input_ids.cpu())

    @property
    def finished(self) -> bool:
        """Whether every request is."""
        return all(sequence.finished for sequence in self.sequences)

    @property
    def new_token_room(self) -> int:
        """New tokens a request has room for."""
        return self._room.tokens - self._input_ids.shape[1]

    def slots_for(self, tokens: int) -> int:
        """Cache slots for the longest request and `tokens` more, room to grow included."""
        longest = max(sequence.length for sequence in self.sequences)
        self._room.grows_for(longest + tokens)
        return self._longest_prompt + self.new_token_room

    def take(self, emitted: Tensor) -> tuple[list[int], list[Cut]]:
        """Emit what a step decided, `[B, 1 + S]`: counts, then tokens.

        Returns:
            The requests it finished, and where their caches end if in mid-path.

        Raises:
            NoToken: a token could not be drawn, since its distribution is none.
        """
        if self._copy is None:
            self._copy = _CopyToHost(emitted)
        finished: list[int] = []
        cuts: list[Cut] = []
        for request, (count, *tokens) in enumerate(self._copy(emitted)):
            sequence = self.sequences[request]
            if sequence.finished:
                continue
            kept = self._emit(request, tokens[:count])
            self._stats.count_step(request, kept)
            if sequence.finished:
                finished.append(request)
                if kept < count:
                    cuts.append(Cut(request, sequence.slots))
        return finished, cuts

    def take_first(self, tokens: list[int]) -> list[int]:
        """Emit the prefill's token of each request; the requests that it finished."""
        for request, token in enumerate(tokens):
            self._stats.rows[request].new_tokens += self._emit(request, [token])
        return [number for number, one in enumerate(self.sequences) if one.finished]

    def _emit(self, request: int, tokens: list[int]) -> int:
        sequence = self.sequences[request]
        # A walk that was stopped has chosen nothing behind its stop.
        chosen = tokens[: tokens.index(-1)] if -1 in tokens else tokens
        kept = sequence.extend(chosen)
        if len(chosen) < len(tokens) and not sequence.finished:
            raise NoToken(request, sequence.length)
        if self._streamer is not None:
            self._streamer.put(torch.tensor(tokens[:kept], device="cpu"))
            if sequence.finished:
                self._streamer.end()
        return kept

    def result(self) -> Tensor:
        """`[B, longest]` int64: prompts and new tokens, padded on the right."""
        longest = max(len(sequence.new) for sequence in self.sequences)
        rows = [one.new + [self._pad] * (longest - len(one.new)) for one in self.sequences]
        new = torch.tensor(rows, dtype=self._input_ids.dtype, device="cpu")
        return torch.cat([self._input_ids, new.to(self._input_ids.device)], dim=1)


class NoToken(Exception):
    """A request's next token has no distribution to be drawn from."""

    def __init__(self, request: int, length: int) -> None:
        super().__init__(request, length)
        self.request, self.length = request, length


class _CopyToHost:
    """The one copy to the host of a step, and the one wait for the device."""

    def __init__(self, like: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if like.device.type == "cuda":
            self._host = torch.empty(like.shape, dtype=like.dtype, pin_memory=True)
            self._event = torch.cuda.Event()

    def __call__(self, emitted: Tensor) -> list[list[int]]:
        if self._event is None:
            return emitted.tolist()
        self._host.copy_(emitted, non_blocking=True)
        self._event.record()
        self._event.synchronize()
        return self._host.tolist()
