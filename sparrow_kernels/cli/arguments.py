"""Types of arguments: what argparse calls on a word of the command line."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fractions import Fraction

    from sparrow_kernels import TreeConfig


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def seed(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, got {text!r}")
    return int(text)


def temperature(text: str) -> float:
    """A finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text!r}")
    return value


def fps(text: str) -> Fraction:
    """A rate at which frames can be sampled, such as 2, 1 or 2/3."""
    from sparrow_kernels.models.video import sampling_rate

    try:
        return sampling_rate(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def tree(text: str) -> TreeConfig:
    """A tree such as 30-4-8 or 4x2x1."""
    from sparrow_kernels import TreeConfig

    try:
        return TreeConfig.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
