"""Train a draft for a target, or the embedded target itself.

Without --data a draft of the embedded target is trained, on clips that the package draws. With it
any target of transformers gets one, from dialogues in JSON Lines (docs/training.md). Interrupt it
when you like: the same command goes on where it stopped. torchrun --nproc-per-node N -m
sparrow_kernels.cli train draft ... shares the work.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from sparrow_kernels.cli.arguments import path, positive, whole
from sparrow_kernels.cli.train_data import add_data_arguments, train_on_data

HELP = "train a draft for a target, or the embedded target; resumable"

_MODES = ("sparrow", "eagle2", "msd", "vispec", "hivis", "eagle3")
_SIGHTS = ("nothing", "states", "placeholders", "embeddings", "middle", "adaptor")
# What does nothing without another.
_NEEDS = {
    **{"text_data": "text_steps", "text_loss": "text_steps"},
    **{"temperature": "regenerate", "max_new_tokens": "regenerate"},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("role", choices=("target", "draft"))
    parser.add_argument(
        "--out", type=path, metavar="DIR", help="default: ./sparrow-target or ./sparrow-draft"
    )
    # Seeds of steps are multiples of this one, and PyTorch's end at 2**64 - 1.
    parser.add_argument(
        "--seed", type=whole(0, 2**32 - 1), default=0, metavar="S", help="default: 0"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="start over, whatever is in DIR already"
    )
    parser.add_argument(
        "--world",
        choices=("easy", "harder"),
        help="of the package's own clips: what a target learns to see, or which embedded target a"
        " draft is for (default: easy)",
    )
    draft = parser.add_argument_group("a draft")
    draft.add_argument(
        "--target", type=path, metavar="DIR", help="what it is for (default: the embedded one)"
    )
    draft.add_argument("--mode", choices=_MODES, help="which system's (default: sparrow)")
    draft.add_argument("--steps", type=positive, metavar="N", help="default: the recipe's, or 2000")
    draft.add_argument(
        "--trained-to-see",
        choices=_SIGHTS,
        help="what it sees of a clip in training (default: what the system has; middle is Sparrow's"
        " bridge). It is saved with the clip out of its sight",
    )
    add_data_arguments(parser.add_argument_group("a draft from data of your own"))


def run(arguments: argparse.Namespace) -> int:
    given = {name for name, value in vars(arguments).items() if value is not None}
    common = {"role", "out", "seed", "fresh", "command"}
    of_draft = {"target", "mode", "steps", "trained_to_see"}
    if arguments.role == "target":
        _refuse(given - common - {"world"}, "when training a target (it is for a draft)")
    elif arguments.data is None:
        of_draft |= {"world"}
        _refuse(given - common - of_draft, "without --data (it is for data of your own)")
    for other in given & {"target", "data"}:
        _refuse(given & {"world"}, f"with --{other} (it names an embedded target)")
    # Threads that spin while they wait make steps on a busy machine ten times as long; OpenMP reads
    # this when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name, needed in _NEEDS.items():
        if name in given and needed not in given:
            _refuse({name}, f"without --{needed.replace('_', '-')}")
    out: Path = arguments.out or Path(f"sparrow-{arguments.role}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a folder, got {out}, which is a file")
    if arguments.role == "target":
        from sparrow_kernels.embedded.worlds import WORLDS
        from sparrow_kernels.training.target.run import train_target

        world = WORLDS[arguments.world or "easy"]
        train_target(out, resume=not arguments.fresh, seed=arguments.seed, world=world)
    elif arguments.data is None:
        _train_embedded(arguments, out)
    else:
        train_on_data(arguments, out)
    print(f"{out}: a trained {arguments.role} (sparrow generate ... --{arguments.role} {out})")
    return 0


def _refuse(names: set[str], why: str) -> None:
    for name in sorted(names):
        raise ValueError(f"--{name.replace('_', '-')} must be left out {why}")


def _train_embedded(arguments: argparse.Namespace, out: Path) -> None:
    import torch

    from sparrow_kernels.embedded.worlds import world_of
    from sparrow_kernels.models.pair import load_target
    from sparrow_kernels.models.quiet import quiet_transformers
    from sparrow_kernels.training.draft import train_draft
    from sparrow_kernels.training.workers import join_workers

    with quiet_transformers():
        target, processor = load_target(arguments.target, world=arguments.world or "easy")
    recipe = world_of(target).draft_recipe
    workers = join_workers(torch.device("cpu"))
    train_draft(
        target,
        processor,
        out,
        resume=not arguments.fresh,
        seed=arguments.seed,
        recipe=replace(recipe, steps=arguments.steps or recipe.steps),
        mode=arguments.mode or "sparrow",
        sees_clip=arguments.trained_to_see,
        workers=workers,
    )
    workers.leave()
