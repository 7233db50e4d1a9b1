"""Speculative decoding against decoding without it, on one prompt: same text, how much sooner.

Two baselines: `cached`, our own loop one token at a time over the same cache and attention, says
what speculation gains; `generate`, transformers as it comes, says what a user gains.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.decoding.stats import PHASES, DecodeStats
from sparrow_kernels.measuring.near_tie import is_near_tie
from sparrow_kernels.models.bridge.names import cache_of
from sparrow_kernels.models.decoder import SparrowDecoder
from sparrow_kernels.models.families import Parts

BASELINES = ("cached", "generate")
WAYS = ("sparrow", *BASELINES)
Spread = tuple[float, float]
_PREFILLS = ("prefill", "draft_prefill")


@dataclass
class Run:
    """One decoding of the prompt."""

    sequence: Tensor
    """`[prompt + new]` int64, on the CPU."""
    prompt_length: int
    seconds: dict[str, float]
    """`end_to_end`: the whole call, vision encoder included. `decode`: after all prefills. The
    phases of `DecodeStats` too, where the loop is ours."""
    cache_bytes: int
    """Keys and values held at the end: the target's, and the draft's if there was one."""
    stats: DecodeStats | None = None
    """None for transformers' own loop."""

    @property
    def tokens(self) -> Tensor:
        """`[new]` int64 the new tokens."""
        return self.sequence[self.prompt_length :]

    @property
    def decode_seconds_a_token(self) -> float | None:
        """Seconds for each token after the first; None if there was only one."""
        steps = len(self.tokens) - 1
        return self.seconds["decode"] / steps if steps else None


@dataclass
class Comparison:
    """All runs of one prompt. Speedups are ratios of medians over the repeats."""

    runs: dict[str, list[Run]] = field(default_factory=lambda: {way: [] for way in WAYS})
    """Every repeat of each of `WAYS`, in the order measured, nothing dropped."""
    identical: bool | None = None
    """Whether both baselines emit exactly our tokens, every time; None when sampling."""
    near_tie_at: list[int] = field(default_factory=list)
    """New tokens (from 0) at which a baseline first differs and both choices are legitimate: the
    plain decoder's top two logits lie closer than 4 times what rounding moves them by."""

    def seconds(self, way: str, phase: str) -> float:
        """Median over the repeats: `end_to_end`, `decode`, or a phase of ours."""
        return median(run.seconds[phase] for run in self.runs[way])

    def phases(self) -> dict[str, float]:
        """Median seconds of each phase of the speculative runs."""
        return {phase: self.seconds("sparrow", phase) for phase in PHASES}

    def decode_speedup(self, baseline: str) -> float | None:
        """Decode time a token of `baseline` over ours, prefills left out.

        A token, because sampled texts differ in length; equal texts make it the plain ratio.
        """
        theirs = [run.decode_seconds_a_token for run in self.runs[baseline]]
        ours = [run.decode_seconds_a_token for run in self.runs["sparrow"]]
        if None in theirs or None in ours:
            return None
        return median(filter(None, theirs)) / median(filter(None, ours))

    def end_to_end_speedup(self, baseline: str = "generate") -> float:
        """Time of the whole call of `baseline` over ours, prefills and vision encoder included."""
        return self.seconds(baseline, "end_to_end") / self.seconds("sparrow", "end_to_end")

    def decode_spread(self, baseline: str) -> Spread | None:
        """What `decode_speedup` is between one's p20 over the other's p80 and the reverse.

        None for a single run, and where `decode_speedup` is None.
        """
        theirs, ours = (
            [run.decode_seconds_a_token for run in self.runs[way]] for way in (baseline, "sparrow")
        )
        if None in theirs or None in ours:
            return None
        return _spread([*filter(None, theirs)], [*filter(None, ours)])

    def end_to_end_spread(self, baseline: str = "generate") -> Spread | None:
        """The same of `end_to_end_speedup`."""
        theirs, ours = (
            [run.seconds["end_to_end"] for run in self.runs[way]] for way in (baseline, "sparrow")
        )
        return _spread(theirs, ours)


def _spread(theirs: list[float], ours: list[float]) -> Spread | None:
    if min(len(theirs), len(ours)) < 2:
        return None
    p20, *_, p80 = _fifths(theirs)
    own_p20, *_, own_p80 = _fifths(ours)
    return p20 / own_p80, p80 / own_p20


def _fifths(times: list[float]) -> list[float]:
    """p20, p40, p60 and p80, between the times where they fall between two."""
    return quantiles(times, n=5, method="inclusive")


def compare(
    decoder: SparrowDecoder,
    inputs: dict[str, Any],
    *,
    repeats: int = 1,
    rotation: int = 0,
    seed: int = 0,
    on_run: Callable[[str, int], None] | None = None,
    **generate_arguments: Any,
) -> Comparison:
    """Decode `inputs` in each of `WAYS`, `repeats` times, in rotated order.

    Args:
        inputs: processor outputs, on the target's device.
        repeats: runs of each way. The first pays for what is set up lazily: use 3 or more for
            numbers to quote.
        rotation: which way goes first in the first repeat; count it up from clip to clip.
        seed: set before each run, which matters when sampling.
        on_run: called as `on_run(way, repeat)` before each run.
        generate_arguments: of `generate`: `max_new_tokens`, `do_sample` and the like.

    Raises:
        ValueError: `repeats` is below 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    comparison = Comparison()
    for repeat in range(repeats):
        for turn in range(len(WAYS)):
            way = WAYS[(rotation + repeat + turn) % len(WAYS)]
            if on_run is not None:
                on_run(way, repeat)
            torch.manual_seed(seed)
            run = _measure(way, decoder, inputs, generate_arguments)
            comparison.runs[way].append(run)
    if not _samples(decoder, generate_arguments):
        _compare_tokens(comparison, decoder, inputs, generate_arguments)
    return comparison


def _measure(
    way: str, decoder: SparrowDecoder, inputs: dict[str, Any], arguments: dict[str, Any]
) -> Run:
    target: Any = decoder.target
    prompt_length = inputs["input_ids"].shape[1]
    clock = _FirstTokenClock()
    call: Callable[..., Any] = {
        "sparrow": decoder.generate,
        "cached": decoder.generate_plainly,
        "generate": lambda **kwargs: target.generate(
            **kwargs, streamer=clock, return_dict_in_generate=True
        ),
    }[way]
    with _caught_cache(decoder) as caught:
        began = _now(decoder)
        result = call(**inputs, **arguments)
        ended = _now(decoder)
    stats: DecodeStats | None = getattr(result, "stats", None)
    seconds = {"end_to_end": ended - began}
    if stats is None:
        seconds["decode"] = ended - clock.first_token_at
    else:
        seconds |= stats.seconds
        seconds["decode"] = sum(s for p, s in stats.seconds.items() if p not in _PREFILLS)
    held = stats.cache_bytes if stats is not None else _bytes_of(caught["cache"])
    return Run(result.sequences[0].cpu(), prompt_length, seconds, held, stats)


def _bytes_of(cache: Any) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def _compare_tokens(
    comparison: Comparison,
    decoder: SparrowDecoder,
    inputs: dict[str, Any],
    arguments: dict[str, Any],
) -> None:
    comparison.identical = True
    checked: set[int] = set()
    for run in comparison.runs["sparrow"]:
        for baseline in BASELINES:
            for other in comparison.runs[baseline]:
                at = first_difference(run.tokens, other.tokens)
                if at is None:
                    continue
                comparison.identical = False
                if at not in checked and is_near_tie(
                    decoder, inputs, other.tokens, at, **arguments
                ):
                    comparison.near_tie_at.append(at)
                checked.add(at)
    comparison.near_tie_at.sort()


def first_difference(ours: Tensor, theirs: Tensor) -> int | None:
    """The first index at which two token lists differ, length included; None if they are equal."""
    shared = min(len(ours), len(theirs))
    different = (ours[:shared] != theirs[:shared]).nonzero()
    if len(different):
        return int(different[0])
    return None if len(ours) == len(theirs) else shared


def _samples(decoder: SparrowDecoder, arguments: dict[str, Any]) -> bool:
    asked = arguments.get("do_sample")
    return bool(decoder.target.generation_config.do_sample if asked is None else asked)


class _FirstTokenClock:
    """A streamer that notes when the first new token arrives; the prompt comes before it."""

    def __init__(self) -> None:
        self.first_token_at = 0.0
        self._values = 0

    def put(self, value: Tensor) -> None:
        self._values += 1
        if self._values == 2:
            self.first_token_at = time.perf_counter()

    def end(self) -> None:
        """Nothing to do: the call ends right after."""


@contextmanager
def _caught_cache(decoder: SparrowDecoder) -> Iterator[dict[str, Any]]:
    """Catch the cache of the first call of the language model, whoever allocates it."""
    caught: dict[str, Any] = {}

    def catch(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        caught["cache"] = cache_of(kwargs)
        handle.remove()

    model = Parts(decoder.target).language_model
    handle = model.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        yield caught
    finally:
        handle.remove()


def _now(decoder: SparrowDecoder) -> float:
    if decoder.target.device.type == "cuda":
        torch.cuda.synchronize(decoder.target.device)
    return time.perf_counter()
