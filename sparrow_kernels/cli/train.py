"""Train the embedded target, or a draft for it, on clips the package draws itself.

Interrupt it when you like: the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from sparrow_kernels.cli.arguments import path, positive, whole

HELP = "train the embedded target or its draft; resumable"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("role", choices=("target", "draft"))
    parser.add_argument(
        "--out", type=path, metavar="DIR", help="default: ./sparrow-target or ./sparrow-draft"
    )
    parser.add_argument(
        "--target", type=path, metavar="DIR", help="what a draft is for (default: the embedded one)"
    )
    parser.add_argument(
        "--mode",
        choices=("sparrow", "eagle2", "msd", "vispec", "hivis", "eagle3"),
        help="which system's draft: what it reads and how it is trained (default: sparrow)",
    )
    parser.add_argument(
        "--steps", type=positive, metavar="N", help="of a draft's training (default: the recipe's)"
    )
    # Seeds of steps are multiples of this one, and PyTorch's end at 2**64 - 1.
    parser.add_argument(
        "--seed", type=whole(0, 2**32 - 1), default=0, metavar="S", help="default: 0"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="start over, whatever is in DIR already"
    )


def run(arguments: argparse.Namespace) -> int:
    for name in ("target", "mode", "steps"):
        if arguments.role == "target" and getattr(arguments, name) is not None:
            raise ValueError(
                f"--{name} must be left out when training a target (it is for a draft)"
            )
    out: Path = arguments.out or Path(f"sparrow-{arguments.role}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a folder, got {out}, which is a file")
    if arguments.role == "target":
        from sparrow_kernels.training.target.run import train_target

        train_target(out, resume=not arguments.fresh, seed=arguments.seed)
    else:
        from sparrow_kernels.embedded.draft_recipe import DraftRecipe
        from sparrow_kernels.models.pair import load_target
        from sparrow_kernels.models.quiet import quiet_transformers
        from sparrow_kernels.training.draft import train_draft

        with quiet_transformers():
            target, processor = load_target(arguments.target)
        recipe = DraftRecipe()
        train_draft(
            target,
            processor,
            out,
            resume=not arguments.fresh,
            seed=arguments.seed,
            recipe=replace(recipe, steps=arguments.steps or recipe.steps),
            mode=arguments.mode or "sparrow",
        )
    print(f"{out}: a trained {arguments.role} (sparrow generate ... --{arguments.role} {out})")
    return 0
