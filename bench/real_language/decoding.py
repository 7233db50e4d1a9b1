"""Unseen prompts decoded with the draft, without it, and by transformers, greedily and at T = 1."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from bench.real_language import lines, lookup
from bench.real_language.answers import prompt_of
from sparrow_kernels import SparrowDecoder, SparrowDraft, load_draft
from sparrow_kernels.measuring.comparison import (
    BASELINES,
    WAYS,
    Comparison,
    compare,
    first_difference,
)
from sparrow_kernels.models.pair import load_target

MAX_NEW_TOKENS = 128
GREEDY: dict[str, Any] = {"do_sample": False}
SAMPLED: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
LOOP = 0.5
"""A text loops whose sequences of four tokens are, by more than this share, repeats."""


def decode(folder: Path, draft: Path | None, tree: str, prompts: int) -> list[dict[str, Any]]:
    """Decode the first `prompts` of `folder/held_out.jsonl` each way, greedily and at T = 1.

    Args:
        draft: where it is saved; None for one that has learned nothing.

    Returns:
        What was measured of each prompt and temperature. What a run that is cut off has measured
        is kept in `folder/decoding.jsonl` and taken from there, with the same draft and tree;
        `folder/decoded.jsonl` has the last whole run.
    """
    target, tokenizer = load_target(folder / "target")
    torch.manual_seed(0)
    chosen = SparrowDraft.for_target(target) if draft is None else load_draft(draft, target)
    decoder = SparrowDecoder(target, chosen.eval(), tree)
    same = {"draft": _fingerprint(draft), "tree": tree, "max_new_tokens": MAX_NEW_TOKENS}
    kept = folder / "decoding.jsonl"
    found = [one for one in lines.whole(kept) if one["of"] == same]
    done = {(one["prompt"], one["temperature"]) for one in found}
    dialogues = lines.whole(folder / "held_out.jsonl")[:prompts]
    left = [
        (number, temperature)
        for number in range(len(dialogues))
        for temperature in (0.0, 1.0)
        if (number, temperature) not in done
    ]
    for turn, (number, temperature) in enumerate(tqdm(left, unit="decoding", file=sys.stderr)):
        inputs = tokenizer(
            prompt_of(tokenizer, dialogues[number]), add_special_tokens=False, return_tensors="pt"
        )
        if turn == 0:  # what is set up at first use
            compare(decoder, inputs, max_new_tokens=8, **GREEDY)
        measured = _measure(decoder, inputs, number, temperature)
        found.append({"of": same, "prompt": number, "temperature": temperature, **measured})
        lines.append(kept, found[-1])
    found = [one for one in found if one["prompt"] < len(dialogues)]
    lines.write(folder / "decoded.jsonl", found)
    kept.unlink(missing_ok=True)
    return found


def _measure(
    decoder: SparrowDecoder, inputs: dict[str, Any], number: int, temperature: float
) -> dict[str, Any]:
    """One prompt, each way once, in an order that changes from prompt to prompt."""
    settings = SAMPLED if temperature else GREEDY
    comparison = compare(
        decoder, inputs, rotation=number, seed=number, max_new_tokens=MAX_NEW_TOKENS, **settings
    )
    ways = {way: _work(comparison, way) for way in WAYS}
    if temperature:
        return {"ways": ways}
    theirs = comparison.runs["generate"][0].tokens
    looked_up = lookup.decode(decoder.target, inputs, max_new_tokens=MAX_NEW_TOKENS, **settings)
    ways["lookup"] = looked_up._asdict() | {"tokens": len(looked_up.tokens)}
    return {
        "ways": ways,
        "differs_at": _differences(comparison),
        "near_ties": comparison.near_tie_at,
        "lookup_differs_at": _places(looked_up.tokens, theirs),
        "loops": _loops(theirs.tolist()),
    }


def _work(comparison: Comparison, way: str) -> dict[str, Any]:
    """Time after the prefills, tokens emitted in it, and calls of the target; tokens in all."""
    run = comparison.runs[way][0]
    emitted = len(run.tokens) - 1
    calls = emitted if run.stats is None else run.stats.target_calls
    seconds = run.seconds["decode"]
    return {"tokens": len(run.tokens), "seconds": seconds, "emitted": emitted, "calls": calls}


def _differences(comparison: Comparison) -> list[int]:
    """New tokens (from 0) at which a baseline first differs from ours."""
    ours = comparison.runs["sparrow"][0].tokens
    return _places(ours, *(comparison.runs[baseline][0].tokens for baseline in BASELINES))


def _places(ours: torch.Tensor, *others: torch.Tensor) -> list[int]:
    places = {first_difference(ours, theirs) for theirs in others}
    return sorted(place for place in places if place is not None)


def _loops(tokens: Sequence[int]) -> bool:
    fours = [tuple(tokens[first : first + 4]) for first in range(len(tokens) - 3)]
    return bool(fours) and len(set(fours)) < (1 - LOOP) * len(fours)


def different_texts(found: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """Each place at which greedy texts part, and whether that is an error: no near tie."""
    return {
        f"prompt {one['prompt']}, new token {place}": place not in one["near_ties"]
        for one in found
        for place in one.get("differs_at", [])
    }


def rows(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each temperature, set of texts and way of drafting; totals over the prompts."""
    looping = {one["prompt"] for one in found if one.get("loops")}
    table = []
    for temperature in (0.0, 1.0):
        of_all = [one for one in found if one["temperature"] == temperature]
        without = [one for one in of_all if one["prompt"] not in looping]
        sets = {"all": of_all, "without loops": without}
        for texts, chosen in sets.items():
            for way in ("sparrow", "lookup"):
                if chosen and way in chosen[0]["ways"]:
                    about = {"temperature": temperature, "texts": texts, "draft": way}
                    table.append(about | _row(chosen, way))
    return table


def _row(found: Sequence[Mapping[str, Any]], way: str) -> dict[str, Any]:
    work = [one["ways"][way] for one in found]
    ours = _ms_a_token(found, way)
    identical = near_ties = None
    if "loops" in found[0]:
        differs = "differs_at" if way == "sparrow" else "lookup_differs_at"
        identical = sum(not one[differs] for one in found)
        near_ties = sum(len(one["near_ties"]) for one in found) if way == "sparrow" else None
    return {
        "tree": found[0]["of"]["tree"] if way == "sparrow" else None,
        "prompts": len(found),
        "identical": identical,
        "near_ties": near_ties,
        "new_tokens": sum(one["tokens"] for one in work),
        "mean_emitted": sum(one["emitted"] for one in work) / sum(one["calls"] for one in work),
        "ms_a_token": ours,
        "speedup_plain": _ms_a_token(found, "cached") / ours,
        "speedup_generate": _ms_a_token(found, "generate") / ours,
    }


def _ms_a_token(found: Sequence[Mapping[str, Any]], way: str) -> float:
    """Decode time a token that it emitted, the prefills left out."""
    work = [one["ways"][way] for one in found]
    return 1e3 * sum(one["seconds"] for one in work) / sum(one["emitted"] for one in work)


def _fingerprint(draft: Path | None) -> str:
    if draft is None:
        return "untrained"
    return hashlib.sha256((draft / "model.safetensors").read_bytes()).hexdigest()[:16]
