"""What a decode step of a 7B Vid-LLM takes, phase by phase, and the speedup that follows for a tau.

    python -m bench.step                    # on a GPU: 7B from configuration, random weights
    python -m bench.step --json bench/results/step.json
    python -m bench.step --tiny             # a tiny configuration, anywhere

Weights are random and caches are filled, since neither changes what a step costs; how many tokens a
step emits does depend on trained weights, so the speedup is given as a function of it: tau times
the plain step over ours, and at the tau that the paper reports for that length, stated as assumed.
Plain decoding is measured as it comes from transformers, and with our cache, attention and graphs:
whatever helps our step helps that one too.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch

from bench import options, records
from bench.stepping import (
    FULL,
    TINY,
    Scale,
    Way,
    as_it_comes,
    build,
    filled,
    phases,
    step_of,
)
from bench.table import print_table
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.ops.env import checks

PAPER_TAU = {500: 4.51, 1_500: 4.36, 6_000: 4.29, 17_000: 4.32, 25_000: 4.37}
"""Sparrow on Qwen2.5-VL-7B at T = 0, by visual length (arXiv 2602.15318, ablation)."""
REDUCED_VOCABULARY = 32_768
SPARE_SLOTS = 128
"""Of a cache, behind the slots that are committed."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.step", description=__doc__, formatter_class=_Raw
    )
    parser.add_argument("--tiny", action="store_true", help="a tiny configuration, anywhere")
    parser.add_argument("--family", nargs="+", choices=FULL.vocabulary,
                        default=list(FULL.vocabulary))  # fmt: skip
    parser.add_argument(
        "--slots", type=options.count, nargs="+", help="cache lengths (default: the paper's)"
    )
    parser.add_argument(
        "--json", type=options.to_write, metavar="FILE", help="write the rows there too"
    )
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        parser.error("a 7B target needs a CUDA GPU (--tiny runs anywhere)")
    scale = TINY if arguments.tiny else FULL
    most = scale.text["max_position_embeddings"] - SPARE_SLOTS
    if arguments.slots and max(arguments.slots) > most:
        parser.error(f"argument --slots: must be at most {most:,}, got {max(arguments.slots)}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found: list[dict[str, Any]] = []
    with torch.inference_mode(), checks(False):
        for family in arguments.family:
            model = build(family, scale, device)
            for slots in arguments.slots or scale.slots:
                for row in steps(family, model, scale, slots):
                    found.append(row)
                    print(_line(row), flush=True)
            del model
    print()
    print_table([_shown(row) for row in found])
    print(
        "\nmilliseconds, medians. x plain: of our plain loop treated alike (same cache, attention,"
        " graphs), at the\nassumed tau, which is the paper's for that length; x as it comes: of"
        " transformers' own step."
    )
    if arguments.json is not None:
        records.write(arguments.json, "bench.step", found, device)
    return 0


def steps(family: str, model: Any, scale: Scale, slots: int) -> Iterator[dict[str, Any]]:
    """A row for each way to decode behind `slots` cache slots."""
    device = model.device
    graphs = device.type == "cuda"
    row: dict[str, Any] = {"family": family, "slots": slots}
    plain = as_it_comes(model, slots, scale.repeats)
    yield {**row, "way": "plain, as it comes", "step_ms": plain}
    draft = SparrowDraft.for_target(model).eval()
    targets = {fused: filled(model, slots, slots + SPARE_SLOTS, fused) for fused in (False, True)}
    baseline: dict[tuple[bool, bool], float] = {}
    for way in _ways(model, scale):
        for graphed in (False, True) if graphs else (False,):
            if way.compiled and graphs and not graphed:
                continue
            target = targets[way.compiled]
            parts = step_of(target, model, draft, way, graphed)
            times = phases(parts, target, slots, scale.repeats)
            total = sum(times.values())
            found = {**row, "way": f"{way.name}{', graphs' if graphed else ''}", "step_ms": total}
            found |= {f"{phase}_ms": ms for phase, ms in times.items()}
            if way.tree is None:
                baseline[way.compiled, graphed] = total
            else:
                alike = baseline[way.compiled, graphed]
                found["breaks_even_at_tau"] = total / alike
                if (tau := PAPER_TAU.get(slots)) is not None:
                    found["assumed_tau"] = tau
                    found["x_plain"] = tau * alike / total
                    found["x_as_it_comes"] = tau * plain / total
            yield found


def _ways(model: Any, scale: Scale) -> list[Way]:
    tree = scale.trees[min(1, len(scale.trees) - 1)]
    reduced = min(REDUCED_VOCABULARY, model.config.get_text_config().vocab_size // 4)
    return [
        Way("plain"),
        *(Way(f"speculative {each}", each) for each in scale.trees),
        Way(f"speculative {tree}, {reduced} draft ids", tree, vocabulary=reduced),
        Way(f"speculative {tree}, 8-bit draft", tree, int8=True),
        Way("plain, compiled", compiled=True),
        Way(f"speculative {tree}, compiled", tree, compiled=True),
        Way(f"speculative {tree}, compiled, {reduced} draft ids", tree, reduced, compiled=True),
    ]


_COLUMNS = ("family", "slots", "way", "draft_ms", "verify_ms", "commit_ms", "step_ms")
_RATIOS = ("breaks_even_at_tau", "assumed_tau", "x_plain", "x_as_it_comes")


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row.get(name, "") for name in (*_COLUMNS, *_RATIOS)}


def _line(row: dict[str, Any]) -> str:
    return f"{row['family']}, {row['slots']} slots: {row['way']}: {row['step_ms']:.2f} ms"


class _Raw(argparse.RawDescriptionHelpFormatter):
    """Shows the docstring as it is written."""


if __name__ == "__main__":
    raise SystemExit(main())
