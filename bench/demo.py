"""The main job: describe three clips plainly and speculatively, in the same words.

    python -m bench.demo            # what `make demo` runs
    python -m bench.demo --quick    # the shortest clip only
    python -m bench.demo --world harder
    python -m bench.demo --json bench/results/demo.json

Writes clips of about 500, 4k and 24k visual tokens, asks the embedded Vid-LLM about each in three
ways (speculatively, by our plain loop over the same cache and attention, by transformers'
`generate` as it comes), in rotated order, and prints medians. Ends with an error if any text
differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench import decoding, options, records
from bench.table import print_table
from sparrow_kernels.embedded.clips import write_mp4
from sparrow_kernels.embedded.worlds import EASY, WORLDS, World
from sparrow_kernels.measuring.comparison import Comparison, compare
from sparrow_kernels.models.decoder import SparrowDecoder
from sparrow_kernels.models.inputs import build_inputs
from sparrow_kernels.models.pair import load_pair

QUESTION = "Describe the video in detail."
MAX_NEW_TOKENS = 256
CLIPS_FOLDER = Path("build/demo")


class Budget(NamedTuple):
    """A clip to make, and how often to decode it each way."""

    visual_tokens: int
    repeats: int


BUDGETS = (Budget(500, 5), Budget(4_000, 5), Budget(24_000, 3))


class Report(NamedTuple):
    """One clip, compared."""

    visual_tokens: int
    slots: int
    """Cache slots a token could need: prompt + `MAX_NEW_TOKENS` + tree."""
    slot_bytes: int
    comparison: Comparison


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.demo", description=__doc__, formatter_class=_Raw
    )
    parser.add_argument("--quick", action="store_true", help="the shortest clip only")
    parser.add_argument("--world", choices=tuple(WORLDS), default=EASY.name, help="which pair")
    parser.add_argument("--seed", type=int, default=1, help="which clips (default: 1)")
    parser.add_argument(
        "--json", type=options.to_write, metavar="FILE", help="write the rows there too"
    )
    arguments = parser.parse_args()
    world = WORLDS[arguments.world]
    pair = load_pair(world=world.name)
    decoder = SparrowDecoder(pair.target, pair.draft)
    text = pair.target.config.get_text_config()
    head_dim = text.hidden_size // text.num_attention_heads
    slot_bytes = 2 * text.num_hidden_layers * text.num_key_value_heads * head_dim * 4
    print(
        f"target {_millions(pair.target)} M parameters, draft {_millions(pair.draft)} M,"
        f" tree {decoder.tree}, float32, {torch.get_num_threads()} threads\n"
    )
    reports = []
    for turn, budget in enumerate(BUDGETS[:1] if arguments.quick else BUDGETS):
        path = write_clip(budget.visual_tokens, arguments.seed, world)
        inputs = build_inputs(pair.processor, QUESTION, [path])
        input_ids = inputs["input_ids"]
        visual = int((input_ids == pair.target.config.video_token_id).sum())
        print(f"{path}: {visual} visual tokens. {QUESTION}", flush=True)
        comparison = compare(
            decoder,
            inputs,
            repeats=budget.repeats,
            rotation=turn,
            on_run=_say,
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
        )
        _say("", 0)
        slots = input_ids.shape[1] + MAX_NEW_TOKENS + decoder.tree.total
        reports.append(Report(visual, slots, slot_bytes, comparison))
        decode = pair.processor.tokenizer.decode
        for way, title in (("generate", "plainly"), ("sparrow", "speculatively")):
            words = decode(comparison.runs[way][0].tokens, skip_special_tokens=True)
            seconds = comparison.seconds(way, "decode")
            print(f"  {title}, {seconds:.2f} s: {words}")
        truth = path.with_suffix(".txt").read_text(encoding="utf-8").strip()
        same = "is" if truth == words else "is NOT"
        print(f"  the text {same} the clip's true description\n", flush=True)
    _print_speed(reports)
    together = decoding.batch(pair, decoding.made_clips(BUDGETS[0].visual_tokens, world), repeats=3)
    print(decoding.batch_line(together))
    if arguments.json is not None:
        records.write(arguments.json, "bench.demo", [_row(report) for report in reports])
    return _verdict(reports) or int(not together["identical"])


def write_clip(visual_tokens: int, seed: int, world: World = EASY) -> Path:
    """The clip of a budget and a seed, as mp4, with its true description beside it."""
    CLIPS_FOLDER.mkdir(parents=True, exist_ok=True)
    kind = "" if world is EASY else f"{world.name}-"
    path = CLIPS_FOLDER / f"clip-{kind}{visual_tokens}-{seed}.mp4"
    script = world.make_clip(visual_tokens, seed)
    path.with_suffix(".txt").write_text(world.description(script) + "\n", encoding="utf-8")
    write_mp4(path, world.render(script))
    return path


_TITLES = {
    "visual_tokens": "visual tokens",
    "new_tokens": "new",
    "identical": "identical",
    "mean_emitted": "mean_emitted",
    "ms_a_token": "ms/token",
    "ms_a_token_plain": "plain loop",
    "ms_a_token_generate": "generate",
    "speedup_plain": "x plain",
    "speedup_generate": "x generate",
    "speedup_end_to_end": "end to end",
    "draft_ms_a_call": "draft ms/call",
    "kv_over_needed": "KV / needed",
}


def _row(report: Report) -> dict[str, Any]:
    """What was measured of one clip, by the names of `_TITLES`, and each phase in ms."""
    comparison = report.comparison
    run = comparison.runs["sparrow"][0]
    assert run.stats is not None
    return {
        "visual_tokens": report.visual_tokens,
        "new_tokens": len(run.tokens),
        "identical": bool(comparison.identical),
        "mean_emitted": run.stats.mean_emitted,
        "ms_a_token": _per_token(comparison, "sparrow"),
        "ms_a_token_plain": _per_token(comparison, "cached"),
        "ms_a_token_generate": _per_token(comparison, "generate"),
        "speedup_plain": comparison.decode_speedup("cached"),
        "speedup_generate": comparison.decode_speedup("generate"),
        "speedup_end_to_end": comparison.end_to_end_speedup("generate"),
        "draft_ms_a_call": 1e3 * _draft_seconds_a_call(comparison),
        "kv_over_needed": run.cache_bytes / (report.slots * report.slot_bytes),
        "prefill_share": comparison.seconds("sparrow", "prefill")
        / comparison.seconds("sparrow", "end_to_end"),
        "phases_ms": {name: 1e3 * seconds for name, seconds in comparison.phases().items()},
    }


def _print_speed(reports: list[Report]) -> None:
    rows = []
    for report in reports:
        row = _row(report)
        row["identical"] = "yes" if row["identical"] else "NO"
        rows.append({title: row[name] for name, title in _TITLES.items()})
    print_table(rows)
    print(
        "\nms/token, plain loop, generate: decode time a token after the prefill. x plain,"
        " x generate: decode speedup.\nend to end: whole call of generate over ours, prefill"
        " included. Medians within this run, order rotated."
    )
    if len(reports) > 1:
        first, last = reports[0].comparison, reports[-1].comparison
        ratio = _draft_seconds_a_call(last) / _draft_seconds_a_call(first)
        print(f"draft time a call, longest clip over shortest: {ratio:.2f}")
    for report in reports:
        phases = report.comparison.phases()
        parts = ", ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in phases.items())
        print(f"{report.visual_tokens} visual tokens, ms: {parts}")


def _verdict(reports: list[Report]) -> int:
    different = [r.visual_tokens for r in reports if not r.comparison.identical]
    if different:
        print(f"TEXT DIFFERS at {different} visual tokens", file=sys.stderr)
        return 1
    print("every text is identical")
    return 0


def _per_token(comparison: Comparison, way: str) -> float:
    return 1e3 * comparison.seconds(way, "decode") / (len(comparison.runs[way][0].tokens) - 1)


def _draft_seconds_a_call(comparison: Comparison) -> float:
    stats = comparison.runs["sparrow"][0].stats
    assert stats is not None
    return comparison.seconds("sparrow", "draft") / stats.target_calls


def _millions(model: torch.nn.Module) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}"


def _say(way: str, repeat: int) -> None:
    """What is running now, on one line of a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{way and f'  {way}, run {repeat + 1}'}")
        sys.stderr.flush()


class _Raw(argparse.RawDescriptionHelpFormatter):
    """Keeps the layout of this module's docstring."""


if __name__ == "__main__":
    sys.exit(main())
