"""What `sparrow evaluate` tells a person about a length of clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparrow_kernels.cli.errors import one_line

_BASELINES = {"cached": "our plain loop", "generate": "transformers' generate"}

Row = dict[str, Any]


def lines(rows: Sequence[Row]) -> list[str]:
    """Of a length: its row, and those of its clips, as `measuring.by_length` makes them."""
    row, clips = rows[0], rows[1:]
    asked = row["visual_tokens_asked"]
    about = "" if asked is None else f" ({asked} asked for)"
    count = row["clips"]
    return [
        f"{row['visual_tokens']:.0f} visual tokens{about}, {count} clip{'' if count == 1 else 's'}",
        f"  emitted:  {_emitted(row)}",
        f"  seconds:  {_seconds(row)}",
        *(f"  speed:    {_speed(row, way, name)}" for way, name in _BASELINES.items()),
        f"  text:     {_text(row, clips)}",
    ]


def _emitted(row: Row) -> str:
    if row["mean_emitted"] is None:
        return "nothing by a call of the target: every text has one token"
    histogram = "|".join(map(str, row["histogram"]))
    return (
        f"{row['mean_emitted']:.2f} emitted a call (mean_emitted); calls that emitted 0, 1, 2 …"
        f" tokens: {histogram}"
    )


def _seconds(row: Row) -> str:
    from sparrow_kernels.decoding.stats import PHASES  # with torch, which is there by now

    parts = [f"{name.replace('_', ' ')} {row[f'seconds_{name}']:.3f}" for name in PHASES]
    return f"{', '.join(parts)} (medians)"


def _speed(row: Row, way: str, name: str) -> str:
    decode, whole = row[f"decode_speedup_{way}"], row[f"end_to_end_speedup_{way}"]
    in_decoding = "" if decode is None else f"{decode:.2f}x in decoding, "
    return f"{in_decoding}{whole:.2f}x end to end against {name}"


def _text(row: Row, clips: Sequence[Row]) -> str:
    if row["clips_identical"] is None:
        return "sampled, so the ways differ in their draws and not in their distribution"
    if row["clips_identical"] == row["clips"]:
        return "identical, token for token, to decoding without speculation"
    ties, different = [], []
    for clip in clips:
        if clip["clips_near_tie"]:
            at = ", ".join(map(str, clip["near_tie_at"]))
            ties.append(f"{one_line(clip['clip'])} from token {at} on")
        elif not clip["clips_identical"]:
            different.append(one_line(clip["clip"]))
    parts = [f"{row['clips_identical']} of {row['clips']} identical"]
    if ties:
        parts.append(f"a near tie within rounding: {', '.join(ties)}")
    if different:
        parts.append(f"DIFFERS from decoding without speculation: {', '.join(different)}")
    return "; ".join(parts)
