"""The tree that is chosen from what calls cost and emitted; with costs that are made up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from family_cases import draft_for, prompts, tiny, turns

from sparrow_kernels.decoding import AutoTree, DecodeStats, TreeConfig
from sparrow_kernels.decoding.stats import RequestStats
from sparrow_kernels.models import SparrowDecoder

CHAIN, WIDE = TreeConfig.parse("4-3-1"), TreeConfig.parse("30-4-8")


def call(
    auto: AutoTree, seconds: dict[Any, float], emitted: dict[Any, int], length: int = 100
) -> Any:
    """One call in which each choice has its seconds a step and tokens a step."""
    choice = auto.choose(1, length)
    steps = 10
    stats = DecodeStats(rows=[RequestStats(1 + steps * emitted[choice], steps)])
    stats.seconds["verify"] = steps * seconds[choice]
    auto.learn(choice, length, stats)
    return choice


def calls(auto: AutoTree, count: int, *costs: Any, **other: Any) -> list[Any]:
    return [call(auto, *costs, **other) for _ in range(count)]


def test_everything_is_tried_and_the_fastest_stays() -> None:
    auto = TreeConfig.auto(CHAIN, WIDE)
    seconds, emitted = {CHAIN: 1.2, WIDE: 2.0, None: 1.0}, {CHAIN: 2, WIDE: 4, None: 1}
    assert calls(auto, 6, seconds, emitted) == [CHAIN, CHAIN, WIDE, WIDE, None, None]
    assert set(calls(auto, 20, seconds, emitted)) == {WIDE}


def test_where_speculation_loses_it_stops_and_returns() -> None:
    auto = TreeConfig.auto(WIDE, patience=5)
    slow = {WIDE: 3.0, None: 1.0}
    calls(auto, 4, slow, {WIDE: 1, None: 1})
    chosen = calls(auto, 20, slow, {WIDE: 1, None: 1})
    assert chosen.count(None) >= 16 and WIDE in chosen, "and looks again from time to time"
    better = calls(auto, 400, slow, {WIDE: 5, None: 1})
    assert better[-20:].count(WIDE) >= 16


def test_shapes_are_learnt_apart() -> None:
    auto = TreeConfig.auto(WIDE)
    emitted = {WIDE: 3, None: 1}
    calls(auto, 5, {WIDE: 1.5, None: 1.0}, emitted, length=100)
    calls(auto, 5, {WIDE: 9.0, None: 1.0}, emitted, length=25_000)
    assert auto.choose(1, 90) == WIDE
    assert auto.choose(1, 24_000) is None


def learn(auto: AutoTree, choice: Any, steps: int, new_tokens: int, seconds: float) -> None:
    stats = DecodeStats(rows=[RequestStats(new_tokens, steps)])
    stats.seconds["verify"] = seconds
    auto.learn(choice, 10, stats)


def test_the_token_of_a_prefill_is_no_step_s() -> None:
    """Short calls would look like good ones."""
    auto = TreeConfig.auto(WIDE)
    for _ in range(2):
        learn(auto, WIDE, steps=1, new_tokens=1 + 1, seconds=1.0)
        learn(auto, None, steps=10, new_tokens=1 + 10, seconds=8.0)
    assert auto.choose(1, 10) is None


def test_a_call_that_other_work_slowed_down_says_nothing_of_a_step() -> None:
    auto = TreeConfig.auto(WIDE)
    for seconds in (1.0, 9.0):
        learn(auto, WIDE, steps=1, new_tokens=3, seconds=seconds)
        learn(auto, None, steps=1, new_tokens=2, seconds=1.0)
    assert auto.choose(1, 10) == WIDE


def test_what_was_emitted_long_ago_counts_less() -> None:
    auto = TreeConfig.auto(WIDE)
    for emitted in (*[1] * 5, *[4] * 4):  # 2.3 a step of all, 3.8 of the last ones
        learn(auto, WIDE, steps=1000, new_tokens=1 + 1000 * emitted, seconds=3000.0)
        learn(auto, None, steps=1000, new_tokens=1001, seconds=1000.0)
    assert auto.choose(1, 10) == WIDE


def test_a_call_without_a_step_teaches_nothing() -> None:
    auto = TreeConfig.auto(WIDE)
    choice = auto.choose(1, 10)
    auto.learn(choice, 10, DecodeStats(rows=[RequestStats(1, 0)]))
    assert auto.choose(1, 10) == WIDE


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="patience must be 2 calls or more, got 1"):
        TreeConfig.auto(WIDE, patience=1)
    with pytest.raises(ValueError, match="candidates must hold a tree"):
        AutoTree([])
    draft = draft_for("Llama").lighter(vocabulary=range(5))
    with pytest.raises(ValueError, match="at most 5 children a node"):
        SparrowDecoder(tiny("Llama").target, draft, TreeConfig.auto(WIDE))


def test_the_decoder_keeps_the_text_whatever_is_chosen() -> None:
    target, processor = tiny("Llama")
    inputs = prompts(processor, turns("Why?"), turns("What is the answer?"))
    settings = {"max_new_tokens": 12, "do_sample": False}
    plain = target.generate(**inputs, **settings)
    decoder = SparrowDecoder(target, draft_for("Llama"), TreeConfig.auto(CHAIN, WIDE))
    chosen = []
    for _ in range(7):
        result = decoder.generate(**inputs, **settings)
        assert torch.equal(result.sequences, plain)
        chosen.append(result.stats.tree)
    assert chosen[:6] == ["4-3-1"] * 2 + ["30-4-8"] * 2 + [None] * 2
