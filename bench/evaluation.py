"""What `sparrow evaluate` prints, written to a file: answers right, and tokens a call emits.

    python -m bench.evaluation --json bench/results/evaluation.json
    python -m bench.evaluation --world harder --json bench/results/evaluation-harder.json

Unseen clips, read from real mp4 files: about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from bench import options, records
from bench.table import print_table
from sparrow_kernels.embedded.worlds import WORLDS
from sparrow_kernels.measuring.evaluation import UNSEEN_SEED, evaluate_draft
from sparrow_kernels.models.pair import load_pair
from sparrow_kernels.training.evaluation import evaluate_budget


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clips", type=options.count, default=50, help="at each length")
    parser.add_argument("--visual-tokens", type=options.count, nargs="+", default=[500, 4_000])
    parser.add_argument("--world", choices=tuple(WORLDS), default="easy", help="which pair")
    parser.add_argument(
        "--json", type=options.to_write, metavar="FILE", help="write the rows there too"
    )
    arguments = parser.parse_args()
    try:
        options.refuse_lengths(arguments.visual_tokens, arguments.world)
    except argparse.ArgumentTypeError as error:
        parser.error(f"argument --visual-tokens: {error}")
    found = measured(arguments.clips, arguments.visual_tokens, arguments.world)
    print_table(found)
    if arguments.json is not None:
        records.write(arguments.json, "bench.evaluation", found)
    return 0


def measured(clips: int, lengths: list[int], world: str) -> list[dict[str, Any]]:
    """A row a length of clip: shares of right answers, and emission with the draft."""
    target, draft, processor = load_pair(world=world)
    seeds = range(UNSEEN_SEED, UNSEEN_SEED + clips)
    return [
        evaluate_budget(target, processor, length, seeds)
        | evaluate_draft(target, draft, processor, length, seeds)
        for length in lengths
    ]


if __name__ == "__main__":
    sys.exit(main())
