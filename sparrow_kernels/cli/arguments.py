"""Types of arguments: what argparse calls on a word of the command line.

A word that is refused here is refused at once and by the name of its argument. Otherwise it would
be seconds later, when the models are loaded, and in the words of a library.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from fractions import Fraction

    from sparrow_kernels import TreeConfig

SEEDS = 2**64
"""PyTorch's generators take a seed below this."""
LOWEST_TEMPERATURE = 1e-5
"""Below, sampling is greedy in all but name, and scores divided by it soon overflow."""

_LONGEST_SHOWN = 60


def whole(least: int, most: int) -> Callable[[str], int]:
    """A whole number from `least` to `most`, both inclusive."""

    def number(text: str) -> int:
        # ASCII digits: to `str.isdigit` ² is one too. Few: Python reads no number of 5000 digits.
        digits = re.fullmatch("0*([0-9]{1,20})", text)
        if digits is None or not least <= int(digits[1]) <= most:
            _refuse(f"a whole number from {least} to {most}", text)
        return int(digits[1])

    return number


positive = whole(1, 10**9)
seed = whole(0, SEEDS - 1)


def temperature(text: str) -> float:
    """0, or a finite number that scores can be divided by."""
    try:
        value = float(text) if re.fullmatch("[0-9.eE+-]+", text) else -1.0
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        _refuse("a finite number of at least 0", text)
    if 0 < value < LOWEST_TEMPERATURE:
        _refuse(f"0 or at least {LOWEST_TEMPERATURE:g}", text, "use 0 for greedy")
    return value


def question(text: str) -> str:
    """Text that a tokenizer takes."""
    if text == "-":
        _refuse("a question", text, 'standard input is not read: "$(cat FILE)" is a file\'s text')
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = _read_as_utf8(text)
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def path(text: str) -> Path:
    """A name that a file can have; an empty one would mean the folder we stand in."""
    if not text or "\0" in text:
        _refuse("a path", text)
    return Path(text)


def clip(text: str) -> str:
    """A path, as written: as a `Path`, https://host/a.mp4 would lose a slash."""
    path(text)
    return text


def device(text: str) -> str:
    """A device torch knows by this name; whether it is there is asked when torch is loaded."""
    if not re.fullmatch("auto|cpu|cuda(:[0-9]{1,3})?", text):
        _refuse("auto, cpu, cuda or cuda:N", text)
    return text


def fps(text: str) -> Fraction:
    """A rate at which frames can be sampled, such as 2, 1 or 2/3."""
    from sparrow_kernels.video.sampling_rate import sampling_rate

    try:
        return sampling_rate(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def tree(text: str) -> TreeConfig:
    """A tree such as 30-4-8, 64-8-16:marginals or 4x2x1."""
    from sparrow_kernels import TreeConfig

    try:
        return TreeConfig.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def written_to(suffix: str) -> Callable[[str], Path]:
    """The path of a file to write, such as `.csv`, in a folder that is there."""

    def file(text: str) -> Path:
        out = path(text)
        if out.suffix.lower() != suffix or out.is_dir():
            _refuse(f"a file that ends in {suffix}", text)
        if not out.parent.is_dir():
            _refuse("in a folder that exists", text)
        if not os.access(out if out.exists() else out.parent, os.W_OK):
            _refuse("where you may write", text)
        return out

    return file


def add_target_arguments(parser: argparse.ArgumentParser) -> None:
    """Which target and draft, and where and in what they run."""
    parser.add_argument(
        "--target",
        type=path,
        metavar="DIR",
        help="a Vid-LLM of transformers with its processor (default: the embedded one)",
    )
    parser.add_argument(
        "--world",
        choices=("easy", "harder"),
        help="of whose clips the embedded pair speaks (default: easy; sparrow clip --world)",
    )
    add_draft_arguments(parser)
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of the weights (default: auto, which is as saved for a target of yours on a GPU, and"
        " float32 otherwise)",
    )
    parser.add_argument(
        "--device",
        type=device,
        default="auto",
        metavar="cpu|cuda[:N]",
        help="where to run (default: auto, which is a GPU if torch sees one)",
    )
    parser.add_argument(
        "--attn",
        choices=("auto", "native", "triton", "torch", "reference"),
        help="backend of attention and of every other op that has it, others as under auto"
        " (default: SPARROW_BACKEND, else auto)",
    )


def check_world(arguments: argparse.Namespace) -> None:
    """Raise `ValueError` for `--world` with a target that is not the embedded one."""
    if arguments.world and arguments.target:
        raise ValueError("--world must be left out with --target (it names an embedded pair)")


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    """How long a text may be, and how its tokens are drafted and chosen."""
    parser.add_argument(
        "--max-new-tokens",
        type=positive,
        default=256,
        metavar="N",
        help="tokens an answer may have (default: 256)",
    )
    parser.add_argument(
        "--temperature",
        type=temperature,
        default=0.0,
        metavar="T",
        help="sample at this temperature, which scores are divided by (default: 0, greedy)",
    )
    parser.add_argument(
        "--tree",
        type=tree,
        metavar="30-4-8",
        help="the draft tree as total-depth-width: nodes with the root, levels, children a node;"
        " with :marginals, as in 64-8-16:marginals, of one distribution a level; or children a"
        " level such as 4x2x1 (default: the draft's own)",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="S", help="what sampling draws (default: 0)"
    )


def add_draft_arguments(parser: argparse.ArgumentParser) -> None:
    """Which draft, and how it reads a prompt."""
    parser.add_argument(
        "--draft",
        type=path,
        metavar="DIR",
        help="made for the target, in any format that sparrow draft inspect knows (default: the"
        " embedded one)",
    )
    parser.add_argument(
        "--sees-clip",
        choices=("nothing", "trained"),
        help="what the draft reads of the clip: nothing, or what it saw in training (default:"
        " nothing, or as it was converted)",
    )
    parser.add_argument(
        "--positions",
        choices=("compact", "sequence", "mrope"),
        help="what the draft's rows are numbered by: themselves, all tokens, or the target's own"
        " positions (default: compact, or as it was converted)",
    )


def _read_as_utf8(text: str) -> str:
    """`text` from its bytes: a locale that is not UTF-8 leaves them undecoded."""
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        stray = next(at for at, letter in enumerate(text) if "\ud800" <= letter <= "\udfff")
        byte = f" {ord(text[stray]) & 0xFF:#04x}" if text[stray] >= "\udc80" else ""
        before = f"after {text[:stray][-20:]!r}" if stray else "at its start"
        message = f"must be UTF-8 text, got a stray byte{byte} {before}"
        raise argparse.ArgumentTypeError(message) from None


def _refuse(must_be: str, text: str, hint: str = "") -> NoReturn:
    shown = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
    raise argparse.ArgumentTypeError(
        f"must be {must_be}, got {shown!r}" + (f" ({hint})" if hint else "")
    )
