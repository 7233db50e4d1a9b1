"""Dialogues that the target writes alone: both sides of its chat template.

User turns are sampled at temperature 1 after what the template puts before one; answers are
greedy. A batch is a line of `batches.jsonl` and its seed is its number: a kill costs the batch at
work, and the run then goes on as if nothing had been.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from bench.real_language import lines

SAMPLED = 72
"""User turns of a batch; about two in three are kept, which makes batches of 48 answers."""
USER_TOKENS = 48
ANSWER_TOKENS = 160
TOP_K = 100
HELD_OUT = 40

_PLAUSIBLE = re.compile(r"[A-Z][\x20-\x7e]{15,}[.?!]")
"""One line of ASCII: a sentence at least."""


def write_answers(model: Any, tokenizer: Any, folder: Path, answer_tokens: int) -> None:
    """Write `folder/answers.jsonl` of at least `answer_tokens` tokens and `folder/held_out.jsonl`.

    A line is `{"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}`. Put through the
    template again, it gives the ids that the target emitted, except that an answer which was cut at
    `ANSWER_TOKENS` gets an end of turn there.
    """
    tokenizer.padding_side = "left"
    path = folder / "batches.jsonl"
    batches = lines.whole(path)
    seen = {_key(user) for batch in batches for user in batch["user_turns"]}
    done = sum(batch["answer_tokens"] for batch in batches)
    with tqdm(total=answer_tokens, initial=done, unit="token", file=sys.stderr) as bar:
        while done < answer_tokens:
            bar.set_description(f"batch {len(batches)}")
            batch = _batch(model, tokenizer, len(batches), seen)
            lines.append(path, batch)
            batches.append(batch)
            done += batch["answer_tokens"]
            bar.update(batch["answer_tokens"])
    dialogues = [dialogue for batch in batches for dialogue in batch["dialogues"]]
    lines.write(folder / "held_out.jsonl", dialogues[-HELD_OUT:])
    lines.write(folder / "answers.jsonl", dialogues[:-HELD_OUT])


def prompt_of(tokenizer: Any, dialogue: dict[str, Any]) -> str:
    """The template's text up to the answer."""
    text = tokenizer.apply_chat_template(
        dialogue["messages"][:1], add_generation_prompt=True, tokenize=False
    )
    return str(text)


def _batch(model: Any, tokenizer: Any, number: int, seen: set[str]) -> dict[str, Any]:
    """The record of one batch; `seen` receives the user turns that it asks."""
    began = time.monotonic()
    torch.manual_seed(number)
    turns = []
    for turn in _user_turns(model, tokenizer):
        if _PLAUSIBLE.fullmatch(turn) and _key(turn) not in seen:
            seen.add(_key(turn))
            turns.append(turn)
    sampled = time.monotonic()
    record: dict[str, Any] = {"batch": number, "user_turns": turns, "dialogues": []}
    record |= {"answer_tokens": 0, "finished": 0, "not_round": 0}
    asked = [{"messages": [{"role": "user", "content": turn}]} for turn in turns]
    stop = model.generation_config.eos_token_id
    for dialogue, answer in zip(asked, _answers(model, tokenizer, asked), strict=True):
        finished = answer[-1] == stop
        text = tokenizer.decode(answer[:-1] if finished else answer)
        prompt = _ids(tokenizer, prompt_of(tokenizer, dialogue))
        dialogue["messages"].append({"role": "assistant", "content": text})
        whole = tokenizer.apply_chat_template(dialogue["messages"], tokenize=False)
        end = "\n" if finished else tokenizer.eos_token + "\n"
        if _ids(tokenizer, whole) != prompt + answer + _ids(tokenizer, end):
            record["not_round"] += 1
            continue
        record["dialogues"].append(dialogue)
        record["answer_tokens"] += len(answer)
        record["finished"] += finished
    record["seconds"] = [round(sampled - began, 1), round(time.monotonic() - sampled, 1)]
    return record


def _user_turns(model: Any, tokenizer: Any) -> list[str]:
    """`SAMPLED` texts less those that do not end within `USER_TOKENS`."""
    around = tokenizer.apply_chat_template([{"role": "user", "content": "\0"}], tokenize=False)
    before = _ids(tokenizer, around.split("\0")[0])
    ids = torch.tensor([before] * SAMPLED)
    emitted = _generate(
        model,
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        max_new_tokens=USER_TOKENS,
        do_sample=True,
        temperature=1.0,
        top_k=TOP_K,
        top_p=1.0,
    )
    stop = model.generation_config.eos_token_id
    return [tokenizer.decode(row[:-1]).strip() for row in emitted if row[-1] == stop]


def _answers(model: Any, tokenizer: Any, dialogues: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Each dialogue's greedy answer, the end of turn included where it came in time."""
    texts = [prompt_of(tokenizer, dialogue) for dialogue in dialogues]
    inputs = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    return _generate(model, inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False)


def _generate(model: Any, inputs: Any, **settings: Any) -> list[list[int]]:
    """New ids of each row, up to its end of turn and with it."""
    stop = model.generation_config.eos_token_id
    out = model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :].tolist()
    return [row[: row.index(stop) + 1] if stop in row else row for row in out]


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _key(text: str) -> str:
    """What two user turns that say the same share."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()
