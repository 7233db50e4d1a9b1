"""What `sparrow generate` tells about a run: one JSON object, or lines for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparrow_kernels.cli.errors import one_line

if TYPE_CHECKING:
    from sparrow_kernels.decoding.stats import DecodeStats, RequestStats
    from sparrow_kernels.measuring.comparison import Comparison


def as_object(
    text: str, visual_tokens: int, stats: RequestStats, seconds: dict[str, float]
) -> dict[str, Any]:
    """The object of `--json`; one of those in its list, where there are several clips."""
    return {
        "text": text,
        "visual_tokens": visual_tokens,
        "new_tokens": stats.new_tokens,
        "target_calls": stats.target_calls,
        "mean_emitted": stats.mean_emitted,
        "histogram": stats.histogram,
        "seconds": seconds,
    }


def comparison_as_object(comparison: Comparison, baseline_text: str) -> dict[str, Any]:
    """What `--compare` adds to it, and replaces: `seconds` are then medians over the repeats."""
    return {
        "seconds": comparison.phases(),
        "identical": comparison.identical,
        "baseline_text": baseline_text,
        "decode_speedup": {
            baseline: comparison.decode_speedup(baseline) for baseline in ("cached", "generate")
        },
        "decode_speedup_p20_p80": {
            baseline: comparison.decode_spread(baseline) for baseline in ("cached", "generate")
        },
        "end_to_end_speedup": comparison.end_to_end_speedup("generate"),
        "end_to_end_speedup_p20_p80": comparison.end_to_end_spread("generate"),
        "near_tie_at": comparison.near_tie_at,
    }


def lines(visual_tokens: int, stats: DecodeStats, comparison: Comparison | None) -> list[str]:
    """The same for a person."""
    summary = [f"{_counts(visual_tokens, stats.rows[0])}; {_phases(stats)}"]
    if comparison is not None:
        summary += [_same_text(comparison), _speedups(comparison)]
    return summary


def batch_lines(clips: list[str], visual_tokens: list[int], stats: DecodeStats) -> list[str]:
    """The same of several clips, a line each; their time is that of all together."""
    each = zip(clips, visual_tokens, stats.rows, strict=True)
    return [
        *(f"{one_line(clip)}: {_counts(tokens, row)}" for clip, tokens, row in each),
        f"all together: {_phases(stats)}",
    ]


def _counts(visual_tokens: int, row: RequestStats) -> str:
    mean = "" if row.mean_emitted is None else f", {row.mean_emitted:.2f} emitted a call"
    return (
        f"{visual_tokens} visual tokens; {_counted(row.new_tokens, 'token')} in"
        f" {_counted(row.target_calls, 'target call')}{mean}"
    )


def _phases(stats: DecodeStats) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {seconds:.2f} s" for name, seconds in stats.seconds.items()
    )


def _same_text(comparison: Comparison) -> str:
    if comparison.identical is None:
        return "text: sampled, so the ways differ in their draws and not in their distribution"
    if comparison.identical:
        return "text: identical, token for token, to decoding without speculation"
    if comparison.near_tie_at:
        tokens = ", ".join(map(str, comparison.near_tie_at))
        return f"text: differs from token {tokens} on, a near tie within rounding"
    return "text: DIFFERS from decoding without speculation"


def _speedups(comparison: Comparison) -> str:
    parts = []
    for baseline, name in (("cached", "our plain loop"), ("generate", "transformers' generate")):
        decode = comparison.decode_speedup(baseline)
        decode_text = ""
        if decode is not None:
            decode_text = f"{_ratio(decode, comparison.decode_spread(baseline))} in decoding, "
        whole = _ratio(
            comparison.end_to_end_speedup(baseline), comparison.end_to_end_spread(baseline)
        )
        parts.append(f"{decode_text}{whole} end to end against {name}")
    repeats = len(comparison.runs["sparrow"])
    of = f"medians of {repeats} runs, p20–p80" if repeats > 1 else "one run, so no spread"
    return f"speed: {'; '.join(parts)} ({of})"


def _ratio(ratio: float, spread: tuple[float, float] | None) -> str:
    return f"{ratio:.2f}x" + (f" ({spread[0]:.2f}–{spread[1]:.2f})" if spread else "")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
