"""The benchmark on a model of others: files that survive a kill, sums, and what prompt lookup did.

The model itself is no part of these tests: a tiny one of the same family stands for it.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from bench.real_language import answers, decoding, lines, lookup


@pytest.fixture(scope="module")
def target() -> Any:
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=24,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        eos_token_id=None,
    )
    return hf.LlamaForCausalLM(config).eval()


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    assert lines.whole(path) == []
    for number in range(2):
        lines.append(path, {"number": number})
    intact = path.read_bytes()
    path.write_bytes(intact + b'{"number": 2')
    assert lines.whole(path) == [{"number": 0}, {"number": 1}]
    assert path.read_bytes() == intact


def test_answers_go_on_after_a_kill_as_if_nothing_had_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batch(model: Any, tokenizer: Any, number: int, seen: set[str]) -> dict[str, Any]:
        drawn = random.Random(number).sample(range(90), 30)
        turns = [str(turn) for turn in drawn if str(turn) not in seen]
        seen.update(turns)
        dialogues = [{"messages": turn} for turn in turns]
        return {"user_turns": turns, "dialogues": dialogues, "answer_tokens": len(turns)}

    monkeypatch.setattr(answers, "_batch", batch)
    tokenizer = hf.PreTrainedTokenizerBase()
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
        answers.write_answers(None, tokenizer, folder, 70)
    kept = (cut / "batches.jsonl").read_bytes()
    for length in (0, kept.index(b"\n") + 9, len(kept) - 1):
        (cut / "batches.jsonl").write_bytes(kept[:length])
        (cut / "answers.jsonl").unlink()
        answers.write_answers(None, tokenizer, cut, 70)
        for name in ("batches", "answers", "held_out"):
            file = f"{name}.jsonl"
            assert (cut / file).read_bytes() == (whole / file).read_bytes()
    told = [one["messages"] for one in lines.whole(cut / "answers.jsonl")]
    held_out = [one["messages"] for one in lines.whole(cut / "held_out.jsonl")]
    assert len(held_out) == answers.HELD_OUT
    assert len({*told, *held_out}) == len(told) + len(held_out) >= 70


def test_prompt_lookup_is_counted_after_its_first_call(target: Any) -> None:
    ids = torch.tensor([[3, 4, 5, 6, 3, 4, 5, 6, 3, 4]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    calls = []
    handle = target.register_forward_pre_hook(lambda *_: calls.append(1))
    found = lookup.decode(target, inputs, max_new_tokens=40, do_sample=False)
    handle.remove()
    plain = target.generate(**inputs, max_new_tokens=40, do_sample=False)[0, ids.shape[1] :]
    assert found.tokens.tolist() == plain.tolist()
    assert found.calls == len(calls) - 1
    assert found.calls < found.emitted < 40  # the model repeats itself: lookups are accepted


@pytest.mark.parametrize(
    ("tokens", "loops"),
    [
        ([], False),
        ([1, 2, 3], False),
        (list(range(50)), False),
        (list(range(50)) + [7, 8, 9] * 10, False),
        (list(range(20)) + [7, 8, 9] * 20, True),
    ],
    ids=["nothing", "too short", "no repeats", "a loop in the last third", "a loop"],
)
def test_loops(tokens: list[int], loops: bool) -> None:
    assert decoding._loops(tokens) is loops


def test_rows_are_totals_over_prompts() -> None:
    def one(prompt: int, seconds: float, calls: int, loops: bool) -> dict[str, Any]:
        plain = {"tokens": 13, "seconds": 12.0, "emitted": 12, "calls": 12}
        ours = {"tokens": 13, "seconds": seconds, "emitted": 12, "calls": calls}
        ways = {"sparrow": ours, "cached": plain, "generate": plain, "lookup": ours}
        about = {"of": {"tree": "6-5-1"}, "prompt": prompt, "temperature": 0.0, "loops": loops}
        differences = {"differs_at": [5] * loops, "near_ties": [5] * loops}
        return {**about, **differences, "ways": ways, "lookup_differs_at": [3]}

    found = [one(0, 6.0, 6, False), one(1, 2.0, 2, True)]
    everything, looked_up, without, _ = decoding.rows(found)
    assert everything["mean_emitted"] == 24 / 8
    assert everything["speedup_plain"] == everything["speedup_generate"] == 24 / 8
    assert (everything["identical"], everything["near_ties"], looked_up["identical"]) == (1, 1, 0)
    assert (without["prompts"], without["mean_emitted"]) == (1, 2.0)
    assert decoding.different_texts(found) == {"prompt 1, new token 5": False}
    found[1]["near_ties"] = []
    assert decoding.different_texts(found) == {"prompt 1, new token 5": True}
