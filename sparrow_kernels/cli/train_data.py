"""`sparrow train draft --data`: its options, and what they set going."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparrow_kernels.cli.arguments import device, fps, path, positive, temperature, tree, whole
from sparrow_kernels.cli.errors import one_line

if TYPE_CHECKING:
    import torch

    from sparrow_kernels.training.workers import Workers

_LOSSES = ("soft", "eagle", "vispec", "hivis")
_GIB = 2**30


def add_data_arguments(data: Any) -> None:
    """The options of `--data`."""
    data.add_argument("--data", type=path, metavar="FILE", help="dialogues, one JSON object a line")
    data.add_argument(
        "--text-data",
        type=path,
        metavar="FILE",
        help="texts for a first stage (default: the dialogues without a clip)",
    )
    data.add_argument("--text-steps", type=positive, metavar="N", help="of that stage (default: 0)")
    data.add_argument(
        "--regenerate",
        type=path,
        metavar="FILE",
        help="have the target write the last answers first, into FILE, and train on them",
    )
    data.add_argument(
        "--temperature", type=temperature, metavar="T", help="of those answers (default: 0, greedy)"
    )
    data.add_argument(
        "--max-new-tokens", type=positive, metavar="N", help="of those answers (default: 512)"
    )
    data.add_argument("--batch", type=positive, metavar="N", help="dialogues a step (default: 16)")
    data.add_argument(
        "--rows-at-once",
        type=positive,
        metavar="N",
        help="most rows through the draft together: memory (default: 4096)",
    )
    data.add_argument(
        "--passes",
        type=whole(1, 16),
        metavar="N",
        help="self-fed passes (default: what the system has, 5 of sparrow and eagle3)",
    )
    data.add_argument("--loss", choices=_LOSSES, help="whose losses (default: soft)")
    data.add_argument(
        "--text-loss", choices=_LOSSES, help="those of the first stage (default: as --loss)"
    )
    data.add_argument(
        "--learning-rate",
        type=_rate,
        metavar="R",
        help="the highest (default: 0.384 / hidden size)",
    )
    data.add_argument(
        "--draft-vocabulary",
        type=positive,
        metavar="N",
        help="an LM head of its own for the N commonest ids (default: the target's)",
    )
    data.add_argument(
        "--tree",
        type=tree,
        metavar="30-4-8",
        help="its default tree, total-depth-width (default: 30-4-8)",
    )
    data.add_argument(
        "--held-out",
        type=whole(0, 10**6),
        metavar="N",
        help="dialogues to measure it on instead (default: 8, the first ones)",
    )
    data.add_argument(
        "--measure-every", type=positive, metavar="N", help="steps between (default: 200)"
    )
    data.add_argument("--fps", type=fps, metavar="F", help="frames a second of clips (default: 2)")
    data.add_argument(
        "--max-length",
        type=positive,
        metavar="N",
        help="most tokens of a dialogue, clips and all (default: what the target's context holds)",
    )
    data.add_argument(
        "--on-wrong",
        choices=("refuse", "skip"),
        help="what to do with data that cannot be used (default: refuse)",
    )
    data.add_argument(
        "--cache-gb",
        type=whole(0, 10**6),
        metavar="N",
        help="keep the target's states on disk, up to so much (default: 0)",
    )
    data.add_argument("--device", type=device, help="auto, cpu, cuda or cuda:N (default: auto)")
    data.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="what the target runs in (default: float32 on a CPU, else as it was saved)",
    )


def train_on_data(arguments: argparse.Namespace, out: Path) -> None:
    """Train as `arguments` say, and write to `out`."""
    from sparrow_kernels.models.quiet import quiet_transformers

    with quiet_transformers():
        _train(arguments, out)


def _train(arguments: argparse.Namespace, out: Path) -> None:
    from sparrow_kernels.cli.question import device_of, dtype_of
    from sparrow_kernels.models.pair import load_target
    from sparrow_kernels.training.data.dialogues import read_dialogues
    from sparrow_kernels.training.data.encoding import Encoder
    from sparrow_kernels.training.dialogue_training import DialogueTraining
    from sparrow_kernels.training.workers import join_workers

    on_wrong = None if arguments.on_wrong != "skip" else _skip
    dialogues = read_dialogues(arguments.data, on_wrong)  # before the seconds that a model takes
    texts = None if arguments.text_data is None else read_dialogues(arguments.text_data, on_wrong)
    workers = join_workers(device_of(arguments.device or "auto"))
    dtype = dtype_of(arguments.dtype or "auto", arguments.target is None, workers.device)
    target, processor = load_target(arguments.target, dtype=dtype)
    target.to(workers.device)
    encoder = Encoder(target, processor, fps=arguments.fps or 2.0, max_length=arguments.max_length)
    if arguments.regenerate is not None:
        _regenerate(arguments, target, encoder, dialogues, workers, on_wrong)
        dialogues = read_dialogues(arguments.regenerate, on_wrong)
    training = DialogueTraining(
        target,
        encoder,
        dialogues,
        out,
        _settings(arguments),
        texts=texts,
        workers=workers,
        autocast=_autocast(target),
        on_wrong=on_wrong,
        warn=_warn,
    )
    training.run(resume=not arguments.fresh)
    workers.leave()


def _settings(arguments: argparse.Namespace) -> Any:
    from sparrow_kernels.training.dialogue_training import TrainingSettings

    asked = {
        "mode": arguments.mode,
        "sees_clip": arguments.trained_to_see,
        "steps": arguments.steps,
        "text_steps": arguments.text_steps,
        "batch": arguments.batch,
        "rows_at_once": arguments.rows_at_once,
        "passes": arguments.passes,
        "loss": arguments.loss,
        "text_loss": arguments.text_loss or arguments.loss,
        "learning_rate": arguments.learning_rate,
        "draft_vocabulary": arguments.draft_vocabulary,
        "held_out": arguments.held_out,
        "measure_every": arguments.measure_every,
        "cache_bytes": None if arguments.cache_gb is None else arguments.cache_gb * _GIB,
        "tree": None if arguments.tree is None else str(arguments.tree),
        "seed": arguments.seed,
    }
    return TrainingSettings(**{name: each for name, each in asked.items() if each is not None})


def _regenerate(
    arguments: argparse.Namespace,
    target: Any,
    encoder: Any,
    dialogues: list[Any],
    workers: Workers,
    on_wrong: Any,
) -> None:
    from sparrow_kernels.training.data.answers import regenerate

    if workers.count > 1:
        raise ValueError(
            "--regenerate must be run by one process (write the answers first, then start torchrun"
            " with --data on what was written)"
        )
    regenerate(
        target,
        encoder,
        dialogues,
        arguments.regenerate,
        max_new_tokens=arguments.max_new_tokens or 512,
        temperature=arguments.temperature or 0.0,
        seed=arguments.seed,
        on_wrong=on_wrong,
    )


def _autocast(target: Any) -> torch.dtype | None:
    """What the draft's products run in beside a target of half precision: gradients want the range
    of bfloat16 also where that is float16."""
    import torch

    return torch.bfloat16 if target.dtype.itemsize == 2 else None


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and below 1, got {text!r}")
    return value


def _skip(error: Exception) -> None:
    _warn(f"left out: {error}")


def _warn(text: str) -> None:
    print(f"sparrow: warning: {one_line(text)}", file=sys.stderr)
