"""Drafts of every system, with the clip in their sight and out of it, on the embedded target.

    python -m bench.drafts --folder build/drafts --steps 300 --json bench/results/drafts.json

Trains what is not in the folder yet, all with the same clips and steps, then decodes a clip of each
length with each draft both ways, beside our plain loop: what a target call emits, what the draft
takes, and the decode speedup. One run, repeats in turns: read ratios.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from bench import options, records
from bench.demo import MAX_NEW_TOKENS, QUESTION, write_clip
from bench.table import print_table
from sparrow_kernels import SparrowDecoder, load_draft
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.drafting.modes import MODES
from sparrow_kernels.embedded.draft_recipe import DraftRecipe
from sparrow_kernels.models.inputs import build_inputs
from sparrow_kernels.models.pair import load_target
from sparrow_kernels.training.draft import train_draft
from sparrow_kernels.training.target.clip_features import pool_features
from sparrow_kernels.training.target.tile_pool import build_tile_pool

SETTINGS: dict[str, Any] = {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": False}


class Budget(NamedTuple):
    """Clips of a length, and how often each is decoded each way."""

    visual_tokens: int
    clips: int
    repeats: int


# A round decodes each clip twelve ways, and at 24k each way has a prefill of 14 seconds.
BUDGETS = (Budget(500, 4, 3), Budget(4_000, 4, 2), Budget(24_000, 2, 1))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.drafts", description=__doc__, formatter_class=_Raw
    )
    parser.add_argument("--folder", type=Path, default=Path("build/drafts"))
    parser.add_argument(
        "--steps", type=options.count, default=300, help="of each training (default: 300)"
    )
    parser.add_argument("--quick", action="store_true", help="the shortest clips only")
    parser.add_argument(
        "--json", type=options.to_write, metavar="FILE", help="write the rows there too"
    )
    arguments = parser.parse_args()
    target, processor = load_target()
    folder = arguments.folder / str(arguments.steps)
    train(target, processor, folder, arguments.steps)
    drafts = loaded(folder, target)
    rows = []
    for budget in BUDGETS[:1] if arguments.quick else BUDGETS:
        found = measure(target, processor, drafts, budget, arguments.steps)
        rows += found
        print_table(found)
        print(flush=True)
    if arguments.json is not None:
        records.write(arguments.json, "bench.drafts", rows)
    return 0 if all(row["identical"] for row in rows) else 1


def train(target: Any, processor: Any, folder: Path, steps: int) -> None:
    """Train a draft of each system that `folder` has not."""
    missing = [mode for mode in MODES if not (folder / mode / "model.safetensors").is_file()]
    if not missing:
        return
    target.requires_grad_(False)
    features = pool_features(target.model.visual, build_tile_pool(0))
    recipe = replace(DraftRecipe(), steps=steps)
    for mode in missing:
        print(f"training a draft like {mode}", flush=True)
        out = folder / mode
        train_draft(target, processor, out, recipe=recipe, features=features, mode=mode)


def loaded(folder: Path, target: Any) -> dict[tuple[str, str], SparrowDraft]:
    """Each draft by its system, and by whether it sees what it was `trained` to or `nothing`."""
    drafts = {}
    for mode in MODES:
        blind = load_draft(folder / mode, target)
        if blind.config.trained_to_see != "nothing":
            drafts[mode, "trained"] = load_draft(folder / mode, target, sees_clip="trained")
        drafts[mode, "nothing"] = blind
    return drafts


def measure(
    target: Any,
    processor: Any,
    drafts: dict[tuple[str, str], SparrowDraft],
    budget: Budget,
    steps: int,
) -> list[dict[str, Any]]:
    """A row for each draft and sight at this length."""
    decoders = {key: SparrowDecoder(target, draft) for key, draft in drafts.items()}
    plain = next(iter(decoders.values()))
    runs: dict[Any, list[Any]] = {key: [] for key in (None, *decoders)}
    identical = dict.fromkeys(decoders, True)
    for seed in range(1, 1 + budget.clips):
        inputs = build_inputs(processor, QUESTION, [write_clip(budget.visual_tokens, seed)])
        length = int((inputs["input_ids"] == target.config.video_token_id).sum())
        for repeat in range(budget.repeats):
            turn = (seed * budget.repeats + repeat) % len(runs)
            order = list(runs)
            order = order[turn:] + order[:turn]
            texts: dict[Any, torch.Tensor] = {}
            for key in order:
                call = plain.generate_plainly if key is None else decoders[key].generate
                result = call(**inputs, **SETTINGS)
                assert result.sequences is not None and result.stats is not None
                texts[key] = result.sequences
                runs[key].append(result.stats)
                result.cache = None
            for key in decoders:
                identical[key] &= torch.equal(texts[key], texts[None])
    base = median(map(_ms_a_token, runs[None]))
    return [
        {
            "draft": mode,
            "steps": steps,
            "sees_clip": drafts[mode, sight].config.sees_clip,
            "visual_tokens": length,
            "identical": identical[mode, sight],
            "mean_emitted": _mean_emitted(runs[mode, sight]),
            "draft_prefill_ms": 1e3 * median(_seconds(runs[mode, sight], "draft_prefill")),
            "draft_ms_a_call": 1e3
            * median(one.seconds["draft"] / max(1, one.target_calls) for one in runs[mode, sight]),
            "speedup": base / median(map(_ms_a_token, runs[mode, sight])),
            "speedup_with_draft_prefill": base
            / median(_ms_a_token(one, "draft_prefill") for one in runs[mode, sight]),
        }
        for mode, sight in decoders
    ]


def _seconds(runs: list[Any], phase: str) -> list[float]:
    return [one.seconds[phase] for one in runs]


def _mean_emitted(runs: list[Any]) -> float:
    return sum(one.new_tokens - 1 for one in runs) / sum(one.target_calls for one in runs)


def _ms_a_token(stats: Any, *more: str) -> float:
    """Decode time a token after the first."""
    phases = ("draft", "verify", "commit", *more)
    return 1e3 * sum(stats.seconds[name] for name in phases) / (stats.new_tokens - 1)


class _Raw(argparse.RawDescriptionHelpFormatter):
    pass


if __name__ == "__main__":
    raise SystemExit(main())
