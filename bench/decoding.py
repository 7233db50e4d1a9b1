"""Batches, lighter drafts and sampled trees: what each is worth, on the embedded pair.

    python -m bench.decoding                            # minutes, on a CPU
    python -m bench.decoding --json bench/results/decoding.json

Four questions about four clips in four calls against one batch of them; a draft with a reduced
vocabulary and one with 8-bit weights beside the whole one; at temperature 1 trees of the draft's
best nodes beside trees that are drawn. Repeats take turns, medians within one run: read ratios.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from statistics import mean, median
from typing import Any

import torch

from bench import options, records
from bench.table import print_table
from sparrow_kernels.drafting.head import frequent_ids
from sparrow_kernels.embedded.captions import description
from sparrow_kernels.embedded.clips import make_clip
from sparrow_kernels.embedded.world import FRAMES_PER_SECOND
from sparrow_kernels.embedded.worlds import EASY, World
from sparrow_kernels.models.decoder import SparrowDecoder
from sparrow_kernels.models.inputs import build_batch, build_inputs
from sparrow_kernels.models.pair import Pair, load_pair
from sparrow_kernels.video.clip import Clip

QUESTION = "Describe the video in detail."
CLIPS = 4
REDUCED_VOCABULARY = 128
SETTINGS: dict[str, Any] = {"max_new_tokens": 256, "do_sample": False}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.decoding", description=__doc__, formatter_class=_Raw
    )
    parser.add_argument(
        "--visual-tokens", type=options.clip_length, default=500, help="of a clip (default: 500)"
    )
    parser.add_argument("--repeats", type=options.count, default=5, help="of each way (default: 5)")
    parser.add_argument(
        "--json", type=options.to_write, metavar="FILE", help="write the rows there too"
    )
    arguments = parser.parse_args()
    pair = load_pair()
    clips = made_clips(arguments.visual_tokens)
    found = [batch(pair, clips, arguments.repeats)]
    print(batch_line(found[0]), flush=True)
    found += lighter(pair, clips, arguments.repeats)
    found += sampled(pair, clips, arguments.repeats)
    for kind in ("lighter", "sampled"):
        print()
        rows = [row for row in found if row["kind"] == kind]
        print_table([{name: row[name] for name in row if name != "kind"} for row in rows])
    if arguments.json is not None:
        records.write(arguments.json, "bench.decoding", found)
    return 0 if all(row.get("identical", True) for row in found) else 1


def made_clips(visual_tokens: int, world: World = EASY) -> list[Clip]:
    """Clips of about so many visual tokens, each another one."""
    seeds = range(1, 1 + CLIPS)
    rendered = (world.render(world.make_clip(visual_tokens, seed)) for seed in seeds)
    rate = Fraction(FRAMES_PER_SECOND)
    return [Clip(torch.from_numpy(frames).permute(0, 3, 1, 2), rate) for frames in rendered]


def batch(pair: Pair, clips: list[Clip], repeats: int) -> dict[str, Any]:
    """Tokens a second of a batch of clips, and of as many calls; of decoding, and of all."""
    decoder = SparrowDecoder(pair.target, pair.draft)
    singles = [build_inputs(pair.processor, QUESTION, [clip]) for clip in clips]
    together = build_batch(pair.processor, QUESTION, clips)
    results: dict[str, Any] = {}

    def one_by_one() -> float:
        runs = [decoder.generate(**inputs, **SETTINGS) for inputs in singles]
        results["one by one"] = runs
        return sum(_decoding_seconds(run.stats) for run in runs)

    def in_a_batch() -> float:
        results["batch"] = decoder.generate(**together, **SETTINGS)
        return _decoding_seconds(results["batch"].stats)

    decode, whole = _in_turns({"one by one": one_by_one, "batch": in_a_batch}, repeats)
    tokens = sum(results["batch"].stats.new_tokens)
    start = together["input_ids"].shape[1]
    same = all(
        torch.equal(result.sequences[0, inputs["input_ids"].shape[1] :], row[start : start + new])
        for result, inputs, row, new in zip(
            results["one by one"],
            singles,
            results["batch"].sequences,
            results["batch"].stats.new_tokens,
            strict=True,
        )
    )
    return {
        "kind": "batch",
        "requests": len(clips),
        "identical": same,
        "tokens_a_second_one_by_one": tokens / decode["one by one"],
        "tokens_a_second": tokens / decode["batch"],
        "times_decode": decode["one by one"] / decode["batch"],
        "times_whole_call": whole["one by one"] / whole["batch"],
    }


def batch_line(row: Mapping[str, Any]) -> str:
    """What `batch` found, in a sentence."""
    return (
        f"a batch of {row['requests']}: {row['tokens_a_second']:.0f} tokens/s,"
        f" {row['times_decode']:.2f} x those of {row['requests']} calls"
        f" ({row['times_whole_call']:.2f} x prefill included),"
        f" texts {'identical' if row['identical'] else 'DIFFER'}"
    )


def lighter(pair: Pair, clips: list[Clip], repeats: int) -> list[dict[str, Any]]:
    """The whole draft beside lighter ones: same text, what a call emits, what drafting takes."""
    encode = pair.processor.tokenizer
    corpus = [encode(description(make_clip(500, seed))).input_ids for seed in range(100, 200)]
    ids = frequent_ids(corpus, REDUCED_VOCABULARY)
    drafts = {
        "whole": pair.draft,
        f"{len(ids)} ids": pair.draft.lighter(vocabulary=ids),
        "8 bits": pair.draft.lighter(int8=True),
    }
    inputs = [build_inputs(pair.processor, QUESTION, [clip]) for clip in clips]
    decoders = {name: SparrowDecoder(pair.target, draft) for name, draft in drafts.items()}
    return _rows("lighter", decoders, inputs, SETTINGS, repeats)


def sampled(pair: Pair, clips: list[Clip], repeats: int) -> list[dict[str, Any]]:
    """At temperature 1: the best nodes of a tree, accepted by the target's own tokens, beside drawn
    trees of as many nodes, accepted by rejection."""
    inputs = [build_inputs(pair.processor, QUESTION, [clip]) for clip in clips]
    trees = ("6-5-1", "1x1x1x1x1", "16-4-4", "4x2x1")
    decoders = {tree: SparrowDecoder(pair.target, pair.draft, tree) for tree in trees}
    settings = {**SETTINGS, "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    return _rows("sampled", decoders, inputs, settings, repeats)


def _rows(
    kind: str,
    decoders: Mapping[str, SparrowDecoder],
    inputs: list[dict[str, Any]],
    settings: Mapping[str, Any],
    repeats: int,
) -> list[dict[str, Any]]:
    seen: dict[str, list[Any]] = {name: [] for name in decoders}
    for repeat in range(repeats):
        for name, decoder in decoders.items():
            for number, given in enumerate(inputs):
                torch.manual_seed(100 * repeat + number)
                seen[name].append(decoder.generate(**given, **settings))
    rows = []
    first = next(iter(seen.values()))
    for name, results in seen.items():
        stats = [result.stats for result in results]
        calls = sum(each.target_calls for each in stats)
        rows.append(
            {
                "kind": kind,
                "draft" if kind == "lighter" else "tree": name,
                "mean_emitted": sum(each.new_tokens - 1 for each in stats) / calls,
                "draft_ms_a_call": 1e3
                * median(each.seconds["draft"] / each.target_calls for each in stats),
                "ms_a_token": 1e3
                * mean(_decoding_seconds(each) / (each.new_tokens - 1) for each in stats),
            }
        )
        if kind == "lighter":
            rows[-1]["identical"] = all(
                torch.equal(a.sequences, b.sequences) for a, b in zip(first, results, strict=True)
            )
    return rows


def _decoding_seconds(stats: Any) -> float:
    return sum(stats.seconds[phase] for phase in ("draft", "verify", "commit"))


def _in_turns(
    ways: Mapping[str, Callable[[], float]], repeats: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Medians of what each way says it took, and of its whole time."""
    told: dict[str, list[float]] = {name: [] for name in ways}
    whole: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.perf_counter()
            told[name].append(way())
            whole[name].append(time.perf_counter() - began)
    return ({n: median(t) for n, t in told.items()}, {n: median(t) for n, t in whole.items()})


class _Raw(argparse.RawDescriptionHelpFormatter):
    """Shows the docstring as it is written."""


if __name__ == "__main__":
    raise SystemExit(main())
