"""`sparrow evaluate --answers`: the target's answers about unseen clips, and its draft.

A draft is also fed the states of another clip under the same text: what it loses then is what the
target's text states carry of the clip.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

CLIPS = 50
_MEANINGLESS = ("question", "repeats", "csv", "plot", "json", "temperature")


def check(arguments: argparse.Namespace, clips: int | list[str]) -> None:
    """Raise `ValueError` for arguments that do not go with it."""
    if isinstance(clips, list):
        raise ValueError("--answers must be left out with video files: nobody knows what is right")
    if clips < 2:
        raise ValueError(f"--clips must be at least 2, got {clips} (the control swaps clips)")
    for name in _MEANINGLESS:
        if getattr(arguments, name):
            raise ValueError(f"--{name} must be left out with --answers")


def run(arguments: argparse.Namespace, clips: int, lengths: Sequence[int]) -> int:
    """Print both tables."""
    from sparrow_kernels.cli.question import asked_backend, load_decoder
    from sparrow_kernels.cli.terminal import ProgressBar
    from sparrow_kernels.embedded.worlds import world_of
    from sparrow_kernels.measuring.evaluation import UNSEEN_SEED, evaluate_draft
    from sparrow_kernels.models.quiet import quiet_transformers
    from sparrow_kernels.training.evaluation import evaluate_budget

    seeds = range(UNSEEN_SEED, UNSEEN_SEED + clips)
    with asked_backend(arguments.attn):
        with ProgressBar("") as bar:
            decoder, processor = load_decoder(arguments, bar)
        target = decoder.target
        print(f"answers of the target, share right of {clips} unseen clips through mp4 files")
        asked = [kind for kind in world_of(target).questions if kind != "describe"]
        kinds = ["content", "exact", *asked]
        _print_row("visual tokens", kinds)
        for length in lengths:
            with quiet_transformers():
                row = evaluate_budget(target, processor, length, seeds)
            _print_row(row["visual_tokens"], [f"{row[kind]:.3f}" for kind in kinds])
        print("\ntokens a target call emits on captions, with the draft")
        _print_row("visual tokens", ["tree", "mean", "other clip"])
        for length in lengths:
            with quiet_transformers():
                row = evaluate_draft(
                    target, decoder.draft, processor, length, seeds, arguments.tree
                )
            means = (row["mean_emitted"], row["mean_emitted_other_clip"])
            _print_row(row["visual_tokens"], [row["tree"], *(f"{mean:.2f}" for mean in means)])
    return 0


def _print_row(first: object, columns: Sequence[str]) -> None:
    print(f"{first!s:>13}" + "".join(f"{column:>12}" for column in columns), flush=True)
