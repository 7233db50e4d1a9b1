"""Measure the target's answers on unseen clips, read from real mp4 files, and its draft.

A draft is also fed the states of another clip under the same text: what it loses then is what the
target's text states carry of the clip.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sparrow_kernels.cli.arguments import path, positive, whole

HELP = "measure the target's answers and its draft on unseen clips"

_QUICK_CLIPS, _QUICK_TOKENS = 2, [100]
_KINDS = ("content", "exact", "color", "count", "shape", "action")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", type=path, metavar="DIR", help="default: the embedded one")
    parser.add_argument("--draft", type=path, metavar="DIR", help="default: the embedded one")
    parser.add_argument(
        "--clips",
        type=whole(1, 10_000),
        metavar="N",
        help="clips at each length (default: 50; two control clips differ, so 2 or more)",
    )
    parser.add_argument(
        "--visual-tokens",
        type=positive,
        nargs="+",
        metavar="N",
        help="lengths of the clips (default: 500 4000)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{_QUICK_CLIPS} clips of {_QUICK_TOKENS[0]} visual tokens: does it run at all",
    )


def run(arguments: argparse.Namespace) -> int:
    clips = arguments.clips or (_QUICK_CLIPS if arguments.quick else 50)
    if clips < 2:
        raise ValueError(f"--clips must be at least 2, got {clips} (the control swaps clips)")
    lengths = arguments.visual_tokens or (_QUICK_TOKENS if arguments.quick else [500, 4000])
    from sparrow_kernels.embedded.clips import clip_shape

    for visual_tokens in lengths:
        clip_shape(visual_tokens)  # raises before minutes of work
    from sparrow_kernels.measuring.evaluation import UNSEEN_SEED, evaluate_draft
    from sparrow_kernels.models.pair import load_pair
    from sparrow_kernels.models.quiet import quiet_transformers
    from sparrow_kernels.training.evaluation import evaluate_budget

    with quiet_transformers():
        target, draft, processor = load_pair(arguments.target, arguments.draft)
    seeds = range(UNSEEN_SEED, UNSEEN_SEED + clips)
    print(f"answers of the target, share right of {clips} unseen clips through mp4 files")
    _print_row("visual tokens", _KINDS)
    for visual_tokens in lengths:
        row = evaluate_budget(target, processor, visual_tokens, seeds)
        _print_row(row["visual_tokens"], [f"{row[kind]:.3f}" for kind in _KINDS])
    print("\ntokens a target call emits on captions, with the draft")
    _print_row("visual tokens", ["tree", "mean", "other clip"])
    for visual_tokens in lengths:
        row = evaluate_draft(target, draft, processor, visual_tokens, seeds)
        means = (row["mean_emitted"], row["mean_emitted_other_clip"])
        _print_row(row["visual_tokens"], [row["tree"], *(f"{mean:.2f}" for mean in means)])
    return 0


def _print_row(first: object, columns: Sequence[str]) -> None:
    print(f"{first!s:>13}" + "".join(f"{column:>12}" for column in columns), flush=True)
