"""Ask a question about a clip, and read the answer as it is decoded.

The answer goes to stdout; what it took goes to stderr. Of several clips each has a line of its own.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparrow_kernels.cli.arguments import (
    add_target_arguments,
    add_text_arguments,
    check_world,
    clip,
    fps,
    question,
    whole,
    written_to,
)
from sparrow_kernels.cli.errors import one_line, wrong_command_line
from sparrow_kernels.cli.files import FORCE, check_new
from sparrow_kernels.cli.folders import check_pair
from sparrow_kernels.cli.loading import loading
from sparrow_kernels.cli.report import as_object, batch_lines, comparison_as_object, lines
from sparrow_kernels.cli.streams import print_json
from sparrow_kernels.cli.terminal import ProgressBar, WordStream
from sparrow_kernels.cli.trace import write_trace
from sparrow_kernels.embedded.questions import QUESTIONS

if TYPE_CHECKING:
    from sparrow_kernels.cli.question import Question
    from sparrow_kernels.decoding import Observer, StepTrace
    from sparrow_kernels.measuring.comparison import Comparison

HELP = "ask a question about a clip"
EPILOG = "\n  ".join(
    [
        "Without --target the embedded pair answers. It knows clips that `sparrow clip` makes,\n"
        "and these questions about them (any part, from one to seven, in the place of one):",
        *(each.format(part="one") for forms in QUESTIONS.values() for each in forms),
    ]
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clip", metavar="CLIP.mp4", type=clip, help="any video file FFmpeg reads")
    parser.add_argument("question", metavar="QUESTION", type=question)
    parser.add_argument(
        "--batch",
        type=clip,
        nargs="+",
        action="extend",
        default=[],
        metavar="CLIP.mp4",
        help="further clips, asked the same and decoded together; one answer each. Behind QUESTION,"
        " for it takes every word that follows",
    )
    add_target_arguments(parser)
    add_text_arguments(parser)
    parser.add_argument(
        "--fps",
        type=fps,
        default=2.0,
        metavar="F",
        help="frames a second to look at: 2 divided by a whole number, such as 1 or 2/3"
        " (default: 2)",
    )
    parser.add_argument(
        "--compare", action="store_true", help="also decode without speculation, and compare"
    )
    parser.add_argument(
        "--repeats",
        type=whole(1, 1000),
        default=3,
        metavar="N",
        help="runs of each way with --compare, of which medians are shown (default: 3)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object instead, with --batch a list of them; times in seconds",
    )
    parser.add_argument(
        "--trace",
        type=written_to(".html"),
        metavar="PAGE.html",
        help="also write a page that shows each step: the drafted tree, what was accepted, the"
        " words as they came, the time of each phase; a browser opens it, offline",
    )
    parser.add_argument("--force", action="store_true", help=FORCE)


def run(arguments: argparse.Namespace) -> int:
    clips = [arguments.clip, *arguments.batch]
    with wrong_command_line():
        _check(arguments)
    for each in clips:
        _check_exists(each)  # said before seconds of imports and loading
    check_pair(arguments)
    streams = sys.stdout.isatty() and not arguments.json and len(clips) == 1
    steps: list[StepTrace] = []
    with ProgressBar("prefill") as bar, ExitStack() as asked:
        with loading(bar):
            from sparrow_kernels.cli.question import asked_backend

            asked.enter_context(asked_backend(arguments.attn))
            question = _prepare(arguments, clips, bar)
        for each in question.unlike:
            bar.clear()
            print(_UNLIKE.format(one_line(each)), file=sys.stderr)
        if question.not_taught:
            bar.clear()
            print(_NOT_TAUGHT.format(", ".join(question.not_taught)), file=sys.stderr)
        observer = steps.append if arguments.trace is not None else None
        result = _decode(question, arguments.seed, bar, streams, observer)
        comparison = _compare(question, arguments, bar) if arguments.compare else None
        if arguments.trace is not None:
            bar.clear()
            write_trace(arguments, question, steps, result, comparison)
    texts, stats, visual_tokens = question.texts(result), result.stats, question.visual_tokens
    if arguments.json:
        reports = [
            as_object(*each, stats.seconds)
            for each in zip(texts, visual_tokens, stats.rows, strict=True)
        ]
        if comparison is not None:
            baseline = question.text(comparison.runs["generate"][0].sequence)
            reports[0] |= comparison_as_object(comparison, baseline)
        if arguments.batch:
            print_json([{"clip": one} | each for one, each in zip(clips, reports, strict=True)])
        else:
            print_json(reports[0])
        return 0
    if arguments.batch:
        for one, text in zip(clips, texts, strict=True):
            print(f"{one_line(one)}: {text}", flush=True)
        summary = batch_lines(clips, visual_tokens, stats)
    else:
        if not streams:
            print(texts[0], flush=True)
        summary = lines(visual_tokens[0], stats, comparison)
    if arguments.trace is not None:
        summary.append(f"trace: {one_line(str(arguments.trace))} (open it in a browser)")
    for line in summary:
        print(line, file=sys.stderr)
    return 0


_UNLIKE = (
    "note: {} is no clip that `sparrow clip` makes, and the embedded pair knows no others: what it"
    " says will be made up (--target takes a Vid-LLM of yours)"
)
_NOT_TAUGHT = (
    "note: the embedded pair was not taught {}: it answers as if asked something else"
    " (sparrow generate --help lists its questions)"
)


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what the command line alone tells to be wrong."""
    check_world(arguments)
    if arguments.batch and arguments.compare:
        raise ValueError("--compare must be left out with --batch (compare clip by clip)")
    if "-" in [arguments.clip, *arguments.batch] and not Path("-").exists():
        raise ValueError(
            "clip must be a file, got -, standard input: a video is read more than once"
            " (write it to a file first)"
        )
    check_new("--trace", arguments.trace, arguments.force)


def _check_exists(clip: str) -> None:
    if Path(clip).exists():
        return
    if "://" in clip:
        from sparrow_kernels.video.clip import clip_path

        clip_path(clip)  # has words for a URL
    raise FileNotFoundError(f"clip {clip} does not exist")


def _prepare(arguments: argparse.Namespace, clips: list[str], bar: ProgressBar) -> Question:
    from sparrow_kernels.cli.question import prepare

    return prepare(arguments, clips, bar)


def _decode(
    question: Question,
    seed: int,
    bar: ProgressBar,
    streams: bool,
    observer: Observer | None,
) -> Any:
    """Decode speculatively; on a terminal, print words as they are accepted."""
    import torch

    from sparrow_kernels.models.progress import prefill_progress
    from sparrow_kernels.models.quiet import quiet_transformers

    words = WordStream(question.processor.tokenizer, bar) if streams else None
    torch.manual_seed(seed)
    decoder, prompts = question.decoder, len(question.visual_tokens)
    try:
        with quiet_transformers(), prefill_progress(decoder.target, bar, prompts=prompts):
            return decoder.generate(
                **question.inputs, **question.settings, streamer=words, observer=observer
            )
    finally:
        if words is not None:
            words.cut()


def _compare(question: Question, arguments: argparse.Namespace, bar: ProgressBar) -> Comparison:
    """Decode again with and without speculation, saying which run is on."""
    from sparrow_kernels.measuring.comparison import compare
    from sparrow_kernels.models.quiet import quiet_transformers

    repeats = arguments.repeats
    with quiet_transformers():
        return compare(
            question.decoder,
            question.inputs,
            repeats=repeats,
            seed=arguments.seed,
            on_run=lambda way, repeat: bar.note(f"comparing: {way}, {repeat + 1} of {repeats}"),
            **question.settings,
        )
