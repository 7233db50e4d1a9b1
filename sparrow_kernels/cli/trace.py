"""`sparrow generate --trace`: the run as a page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparrow_kernels._version import __version__
from sparrow_kernels.cli.errors import one_line
from sparrow_kernels.cli.files import written_together

if TYPE_CHECKING:
    from sparrow_kernels.cli.question import Question
    from sparrow_kernels.decoding import StepTrace
    from sparrow_kernels.measuring.comparison import Comparison
    from sparrow_kernels.measuring.trace_page import Speed


def write_trace(
    arguments: argparse.Namespace,
    question: Question,
    steps: Sequence[StepTrace],
    result: Any,
    comparison: Comparison | None,
) -> None:
    """Write the page that `--trace` asks for."""
    from sparrow_kernels.measuring.run_facts import run_facts
    from sparrow_kernels.measuring.trace_page import Asked, trace_page

    facts = run_facts(question.decoder, arguments.question)
    named = ("dtype", "device", "torch", "transformers", "time")
    made = [f"{name} {facts[name]}" for name in named]
    asked = Asked(
        question=arguments.question,
        target="embedded" if arguments.target is None else one_line(arguments.target.name),
        clips=[one_line(Path(clip).name) for clip in (arguments.clip, *arguments.batch)],
        visual_tokens=question.visual_tokens,
        films=question.films,
        speed=[] if comparison is None else _speeds(comparison),
        made=", ".join([f"sparrow_kernels {__version__}", *made]),
    )
    page = trace_page(steps, result, question.processor.tokenizer, asked)
    with written_together(arguments.trace) as (file,):
        file.write_text(page, encoding="utf-8")


def _speeds(comparison: Comparison) -> list[Speed]:
    from sparrow_kernels.measuring.trace_page import Speed

    return [
        Speed(name, ratio, comparison.decode_spread(baseline))
        for baseline, name in (("cached", "our plain loop"), ("generate", "generate"))
        if (ratio := comparison.decode_speedup(baseline)) is not None
    ]
