"""A decoding as one HTML page: each step's tree, what was accepted, the words, the time a phase.

The page needs no network and nothing beside itself. `page.html`, `page.css`, `tree.js` and
`page.js` are put into one file with the data, which no text can leave: it is JSON without `<`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from sparrow_kernels.decoding import StepTrace
from sparrow_kernels.measuring.trace_page.film import Frame
from sparrow_kernels.measuring.trace_page.words import words_of
from sparrow_kernels.models.outputs import SparrowOutput

_FOLDER = Path(__file__).resolve().parent
_PARTS = {"style": "page.css", "tree": "tree.js", "script": "page.js"}


@dataclass(frozen=True)
class Speed:
    """How much faster than something else, with p20 to p80 where there were several runs."""

    against: str
    ratio: float
    spread: tuple[float, float] | None = None


@dataclass(frozen=True)
class Asked:
    """What a page says beside the steps; what is left out is not shown."""

    question: str = "A decoding, step by step"
    target: str = ""
    clips: Sequence[str] = ()
    """One a request, and so are the next two."""
    visual_tokens: Sequence[int] = ()
    films: Sequence[Sequence[Frame]] = ()
    speed: Sequence[Speed] = ()
    made: str = ""
    """What it was made with: one line."""


def trace_page(
    steps: Sequence[StepTrace], result: SparrowOutput, tokenizer: Any, asked: Asked | None = None
) -> str:
    """The page of a call whose `observer` was given `steps`, as HTML.

    Args:
        steps: of all requests, in the order they came.
        result: what the call returned.
        tokenizer: the target's.
    """
    data = trace_data(steps, result, tokenizer, asked or Asked())
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    text = text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair is no text
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    parts = {name: (_FOLDER / file).read_text("utf-8") for name, file in _PARTS.items()}
    parts["data"] = text
    page = (_FOLDER / "page.html").read_text("utf-8")
    # In one pass: nothing that the data holds is taken for a place to fill.
    return re.sub(r"/\*\{\{(\w+)\}\}\*/", lambda found: parts[found[1]], page)


def trace_data(
    steps: Sequence[StepTrace], result: SparrowOutput, tokenizer: Any, asked: Asked
) -> dict[str, Any]:
    """What the page shows, as JSON takes it; a step is a list in the order of `page.js`."""
    stats, sequences = result.stats, result.sequences
    assert stats is not None and sequences is not None
    prompt = sequences.shape[1] - max(row.new_tokens for row in stats.rows)
    requests = []
    for number, row in enumerate(stats.rows):
        new = sequences[number, prompt : prompt + row.new_tokens].tolist()
        own = [step for step in steps if step.request == number]
        first, *words = words_of(tokenizer, new)
        requests.append(
            {
                "clip": _at(asked.clips, number, f"request {number + 1}"),
                "visual_tokens": _at(asked.visual_tokens, number, None),
                "frames": _at(asked.films, number, []),
                "first": first,
                "steps": _steps(own, words),
            }
        )
    used = {token for step in steps for token in (*step.tokens, *step.emitted)}
    pieces = {token: tokenizer.decode([token]) for token in sorted(used)}
    return {
        "question": asked.question,
        "target": asked.target,
        "tree": stats.tree,
        "seconds": {name: round(each, 6) for name, each in stats.seconds.items()},
        "speed": [_speed(each) for each in asked.speed],
        "made": asked.made,
        "pieces": pieces,
        "requests": requests,
    }


def _steps(steps: Sequence[StepTrace], words: list[str]) -> list[list[Any]]:
    listed, begun = [], 0
    for step in steps:
        end = begun + len(step.emitted)
        listed.append(
            [
                step.tokens,
                step.parent,
                _rounded(step.own_draft_log_probs),
                _rounded(step.target_log_probs),
                step.path,
                step.emitted,
                _rounded(step.emitted_log_probs),
                words[begun:end],
                [round(seconds, 7) for seconds in step.seconds.values()],
                [step.committed, step.draft_committed],
            ]
        )
        begun = end
    return listed


def _rounded(log_probs: list[float] | None) -> list[float | None] | None:
    """None for what has no mass: JSON knows no infinity."""
    if log_probs is None:
        return None
    return [round(min(each, 0.0), 4) if isfinite(each) else None for each in log_probs]


def _speed(speed: Speed) -> dict[str, Any]:
    low, high = speed.spread or (None, None)
    return {"against": speed.against, "ratio": speed.ratio, "low": low, "high": high}


def _at(values: Sequence[Any], number: int, otherwise: Any) -> Any:
    return values[number] if number < len(values) else otherwise
