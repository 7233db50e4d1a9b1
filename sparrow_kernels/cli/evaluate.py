"""Measure what a draft gains at each length of clip, on video files of yours or on generated ones.

A clip is decoded speculatively, by our plain loop over the same cache and attention, and by
transformers' generate as it comes. With --answers instead: the share of right answers to questions
about generated clips, and what the draft loses when it is fed the states of another clip.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparrow_kernels._version import __version__
from sparrow_kernels.cli import answers
from sparrow_kernels.cli.arguments import (
    add_target_arguments,
    add_text_arguments,
    check_world,
    positive,
    question,
    whole,
    written_to,
)
from sparrow_kernels.cli.errors import FAILED, one_line, wrong_command_line
from sparrow_kernels.cli.files import FORCE, check_new
from sparrow_kernels.cli.folders import check_pair
from sparrow_kernels.cli.length_report import lines
from sparrow_kernels.cli.loading import loading
from sparrow_kernels.cli.streams import print_json
from sparrow_kernels.cli.terminal import ProgressBar
from sparrow_kernels.cli.videos import ClipsAction, files

if TYPE_CHECKING:
    from sparrow_kernels import SparrowDecoder
    from sparrow_kernels.measuring.clip_plan import Plan, Prompt

HELP = "measure what a draft gains at each length of clip"

_CLIPS, _LENGTHS, _REPEATS = 5, [500, 4000], 3
_QUICK_CLIPS, _QUICK_LENGTHS = 2, [100]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target_arguments(parser)
    parser.add_argument(
        "--clips",
        action=ClipsAction,
        nargs="+",
        metavar="N | PATH",
        help="so many generated clips at each length, which the embedded target understands; or"
        f" video files, or folders of them (default: {_CLIPS}, with --answers {answers.CLIPS})",
    )
    parser.add_argument(
        "--lengths",
        type=positive,
        nargs="+",
        metavar="N",
        help="about how many visual tokens a clip has; of files so many frames are looked at"
        f" (default: {' and '.join(map(str, _LENGTHS))}; files as they are, at 2 frames a second)",
    )
    parser.add_argument(
        "--visual-tokens",
        dest="lengths",
        type=positive,
        nargs="+",
        metavar="N",
        help="another name of --lengths",
    )
    parser.add_argument(
        "--question",
        type=question,
        metavar="TEXT",
        help="asked about each clip (default: Describe the video in detail.)",
    )
    add_text_arguments(parser)
    parser.add_argument(
        "--repeats",
        type=whole(1, 1000),
        metavar="N",
        help=f"runs of each way, of which medians are shown (default: {_REPEATS}, with --quick 1)",
    )
    parser.add_argument(
        "--csv",
        type=written_to(".csv"),
        metavar="FILE.csv",
        help="write a row a length and a row a clip there; times in seconds",
    )
    parser.add_argument(
        "--plot",
        type=written_to(".png"),
        metavar="FILE.png",
        help="draw what a target call emits and the decode speedups over the length there",
    )
    parser.add_argument("--force", action="store_true", help=FORCE)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead; times in seconds"
    )
    parser.add_argument(
        "--answers",
        action="store_true",
        help="the answers' share right, and the draft under another clip's states, instead",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{_QUICK_CLIPS} clips of {_QUICK_LENGTHS[0]} visual tokens: does it run at all",
    )


def run(arguments: argparse.Namespace) -> int:
    own = isinstance(arguments.clips, list)
    quick, some = arguments.quick, answers.CLIPS if arguments.answers else _CLIPS
    clips = arguments.clips or (_QUICK_CLIPS if quick else some)
    lengths = arguments.lengths or (_QUICK_LENGTHS if quick else [] if own else _LENGTHS)
    lengths = list(dict.fromkeys(lengths))
    with wrong_command_line():
        _check(arguments, clips, lengths)
    check_pair(arguments)
    if isinstance(clips, int) and arguments.answers:
        return answers.run(arguments, clips, lengths)
    if arguments.plot is not None:
        from sparrow_kernels.measuring.row_files import check_plots

        check_plots()
    return _run(arguments, clips if isinstance(clips, int) else files(clips), lengths)


def _check(arguments: argparse.Namespace, clips: int | list[str], lengths: list[int]) -> None:
    """Refuse what the command line alone tells to be wrong."""
    check_world(arguments)
    for name in ("csv", "plot"):
        check_new(f"--{name}", getattr(arguments, name), arguments.force)
    if isinstance(clips, int):
        from sparrow_kernels.embedded.clips import clip_shape

        for length in lengths:
            clip_shape(length)
    elif arguments.quick:
        raise ValueError("--quick must be left out with video files of yours")
    if arguments.answers:
        answers.check(arguments, clips)


def _run(arguments: argparse.Namespace, clips: int | list[Path], lengths: list[int]) -> int:
    with ProgressBar("measuring") as bar, ExitStack() as during:
        with loading(bar):
            from sparrow_kernels.cli.question import asked_backend, load_decoder
            from sparrow_kernels.measuring.clip_plan import Prompt
            from sparrow_kernels.measuring.evaluation import QUESTION
            from sparrow_kernels.models.quiet import quiet_transformers

            during.enter_context(asked_backend(arguments.attn))
            during.enter_context(quiet_transformers())
            decoder, processor = load_decoder(arguments, bar)
        prompt = Prompt(decoder.target, processor, arguments.question or QUESTION)
        plan = _plan(prompt, clips, lengths, bar)
        plan.check()
        bar.clear()
        for one in plan.left_out:
            print(f"sparrow: warning: {one_line(str(one))}", file=sys.stderr)
        for one in plan.unreadable:
            print(f"sparrow: error: {one_line(str(one))}", file=sys.stderr)
        _measure(arguments, decoder, prompt, plan, bar)
    if plan.unreadable and isinstance(clips, list):
        count = f"{len(plan.unreadable)} of {len(clips)} clips"
        print(f"sparrow: error: {count} could not be read, and are left out", file=sys.stderr)
        return FAILED
    return 0


def _plan(prompt: Prompt, clips: int | list[Path], lengths: list[int], bar: ProgressBar) -> Plan:
    from sparrow_kernels.measuring.clip_plan import plan_files, plan_generated

    if isinstance(clips, list):
        return plan_files(
            prompt, clips, lengths, lambda path: bar.note(f"looking through {path.name}")
        )
    return plan_generated(prompt, clips, lengths)


def _measure(
    arguments: argparse.Namespace,
    decoder: SparrowDecoder,
    prompt: Prompt,
    plan: Plan,
    bar: ProgressBar,
) -> None:
    from sparrow_kernels.cli.question import sampling
    from sparrow_kernels.measuring.by_length import measure
    from sparrow_kernels.measuring.row_files import write_csv, write_plot
    from sparrow_kernels.measuring.run_facts import run_facts

    repeats = arguments.repeats or (1 if arguments.quick else _REPEATS)
    embedded = f"embedded, {arguments.world}" if arguments.world else "embedded"
    facts = run_facts(decoder, prompt.question) | {
        "target": str(arguments.target or embedded),
        "draft": str(arguments.draft or embedded),
        "temperature": arguments.temperature,
        "repeats": repeats,
        "version": __version__,
        "command": shlex.join(["sparrow", *sys.argv[1:]]),
    }
    rows: list[dict[str, Any]] = []
    for of_length in measure(
        decoder,
        prompt,
        plan.cases,
        repeats=repeats,
        max_new_tokens=arguments.max_new_tokens,
        seed=arguments.seed,
        on_run=bar,
        **sampling(arguments.temperature),
    ):
        rows += of_length
        if arguments.csv is not None:  # after each length: minutes may lie between them
            write_csv(arguments.csv, rows, facts)
        if not arguments.json:
            bar.clear()
            print("\n".join(lines(of_length)), flush=True)
    if arguments.plot is not None:
        write_plot(arguments.plot, rows)
    if arguments.json:
        left_out = [one._asdict() for one in (*plan.left_out, *plan.unreadable)]
        print_json(facts | {"rows": rows, "left_out": left_out})
