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
from sparrow_kernels.cli.errors import told_when_cut, wrong_command_line
from sparrow_kernels.cli.files import check_new_model
from sparrow_kernels.cli.folders import check_target
from sparrow_kernels.cli.train_data import add_data_arguments, train_on_data

HELP = "train a draft for a target, or the embedded target; resumable"
_TARGET = "train the embedded target, from nothing, on clips that the package draws"
_DRAFT = "train a draft for a target, embedded or yours"

_MODES = ("sparrow", "eagle2", "msd", "vispec", "hivis", "eagle3")
_SIGHTS = ("nothing", "states", "placeholders", "embeddings", "middle", "adaptor")
# What does nothing without another.
_NEEDS = {
    **{"text_data": "text_steps", "text_loss": "text_steps"},
    **{"temperature": "regenerate", "max_new_tokens": "regenerate"},
}
_CHECKPOINT = "training.pt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    roles = parser.add_subparsers(dest="role", metavar="ROLE", required=True)
    target = roles.add_parser("target", help=_TARGET, description=_TARGET, allow_abbrev=False)
    draft = roles.add_parser("draft", help=_DRAFT, description=__doc__, allow_abbrev=False)
    _add_common(target, "target", "what it learns to see")
    _add_common(draft, "draft", "which embedded target it is for")
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
    add_data_arguments(draft.add_argument_group("a draft from data of your own"))


def _add_common(parser: argparse.ArgumentParser, role: str, world: str) -> None:
    parser.add_argument("--out", type=path, metavar="DIR", help=f"default: ./sparrow-{role}")
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
        help=f"of the package's own clips: {world} (default: easy)",
    )


def run(arguments: argparse.Namespace) -> int:
    out: Path = arguments.out or Path(f"sparrow-{arguments.role}")
    with wrong_command_line():
        if arguments.role == "draft":
            _check_draft(arguments)
        may_hold_one = arguments.fresh or (out / _CHECKPOINT).exists()
        hint = f"another --out, or --fresh: there is no {_CHECKPOINT} to go on with"
        check_new_model(out, may_hold_one, hint, target=getattr(arguments, "target", None))
    # Threads that spin while they wait make steps on a busy machine ten times as long; OpenMP reads
    # this when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    earlier = _saved(out)
    with told_when_cut(lambda: _left(out, arguments.fresh, earlier)):
        if arguments.role == "target":
            _train_target(arguments, out)
        else:
            check_target(arguments.target)
            train = _train_embedded if arguments.data is None else train_on_data
            train(arguments, out)
    print(f"{out}: a trained {arguments.role} (sparrow generate ... --{arguments.role} {out})")
    return 0


def _check_draft(arguments: argparse.Namespace) -> None:
    """Refuse what the command line alone tells to be wrong."""
    given = {name for name, value in vars(arguments).items() if value is not None}
    if arguments.data is None:
        without_data = {"role", "out", "seed", "fresh", "command", "world"}
        without_data |= {"target", "mode", "steps", "trained_to_see"}
        _refuse(given - without_data, "without --data (it is for data of your own)")
    for other in given & {"target", "data"}:
        _refuse(given & {"world"}, f"with --{other} (it names an embedded target)")
    for name, needed in _NEEDS.items():
        if name in given and needed not in given:
            _refuse({name}, f"without --{needed.replace('_', '-')}")
    answers = arguments.regenerate
    if answers is not None and answers.resolve() == arguments.data.resolve():
        raise ValueError("--regenerate must be another file than --data, got the same")


def _refuse(names: set[str], why: str) -> None:
    for name in sorted(names):
        raise ValueError(f"--{name.replace('_', '-')} must be left out {why}")


def _saved(out: Path) -> int | None:
    """When the checkpoint there was written, in nanoseconds; None where there is none."""
    file = out / _CHECKPOINT
    return file.stat().st_mtime_ns if file.exists() else None


def _left(out: Path, fresh: bool, earlier: int | None) -> str:
    """What is left of a run that is cut; `earlier` is what `_saved` said before it."""
    if _saved(out) is None:
        return f"too early to have left anything to go on with in {out}"
    if fresh and _saved(out) == earlier:
        return f"too early to have left anything: {out / _CHECKPOINT} is that of an earlier run"
    again = "the same command without --fresh" if fresh else "the same command"
    return f"{again} goes on from the last checkpoint in {out}"


def _train_target(arguments: argparse.Namespace, out: Path) -> None:
    from sparrow_kernels.embedded.worlds import WORLDS
    from sparrow_kernels.models.quiet import quiet_transformers
    from sparrow_kernels.training.target.run import train_target

    world = WORLDS[arguments.world or "easy"]
    with quiet_transformers():
        train_target(out, resume=not arguments.fresh, seed=arguments.seed, world=world)


def _train_embedded(arguments: argparse.Namespace, out: Path) -> None:
    import torch

    from sparrow_kernels.embedded.worlds import world_of
    from sparrow_kernels.models.pair import load_target
    from sparrow_kernels.models.quiet import quiet_transformers
    from sparrow_kernels.training.draft import train_draft
    from sparrow_kernels.training.small_target import check_small_target
    from sparrow_kernels.training.workers import join_workers

    with quiet_transformers():
        if arguments.target is not None:
            check_small_target(arguments.target)
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
