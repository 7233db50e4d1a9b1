"""At how many frames a second a clip is looked at."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

_DAY = 24 * 60 * 60
_DIGITS = 60  # what a float needs, several times over


def sampling_rate(fps: float | str | Fraction, temporal_patch_size: int = 2) -> Fraction:
    """The exact rate for `fps`, such as 2, 1, 0.5 or "2/3".

    A Vid-LLM merges `temporal_patch_size` frames. transformers takes the seconds they span as a
    whole number in some releases and as a fraction in others, so only whole ones mean the same
    everywhere.

    Raises:
        ValueError: `fps` is no positive number, merged frames would span part of a second, or they
            would span more than a day.
    """
    rate = _fraction(fps)
    seconds = temporal_patch_size / rate if rate > 0 else Fraction(0)
    if rate <= 0 or seconds.denominator != 1 or seconds > _DAY:
        spans = [f"{temporal_patch_size / span:g}" for span in (1, 2, 4, 5)]
        long = f", so that they span more than a day of {_DAY} seconds" if seconds > _DAY else ""
        raise ValueError(
            f"fps must be {temporal_patch_size} divided by a whole number, got {_short(fps)}{long}"
            f" (such as {', '.join(spans)})"
        )
    return rate


def _fraction(number: Any) -> Fraction:
    """The value of a number or of its text, 0 where there is none or it is absurdly long."""
    if isinstance(number, Fraction):
        return number
    try:
        text = str(number)
        digits, _, exponent = text.lower().partition("e")
        # Fraction("1e-9999999") would write out the ten million digits.
        if len(digits) > _DIGITS or (exponent and abs(int(exponent)) > _DIGITS):
            return Fraction(0)
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return Fraction(0)


def _short(number: Any) -> str:
    try:
        text = str(number)
    except ValueError:  # an integer of more digits than Python writes
        return "one of thousands of digits"
    return text if len(text) <= _DIGITS else f"{text[:_DIGITS]}…"
