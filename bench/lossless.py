"""Greedy speculative text against `model.generate(do_sample=False)`, over many unseen clips.

    python -m bench.lossless                    # 100 clips x trees 6-5-1, 25-5-8, 30-4-8
    python -m bench.lossless --clips 12 --trees 6-5-1
    python -m bench.lossless --json bench/results/lossless.json

Clips are spread evenly over captions and question types. Ends with an error if any text differs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from tqdm import tqdm

from bench import options, records
from bench.table import print_table
from sparrow_kernels.decoding import TreeConfig
from sparrow_kernels.embedded.captions import QUESTIONS, ask
from sparrow_kernels.embedded.clips import make_clip
from sparrow_kernels.measuring.evaluation import UNSEEN_SEED
from sparrow_kernels.models.decoder import SparrowDecoder
from sparrow_kernels.models.pair import load_pair
from sparrow_kernels.models.request import SparrowOutput
from sparrow_kernels.training.evaluation import through_mp4
from sparrow_kernels.training.small_target import clip_inputs

FIRST_SEED = UNSEEN_SEED + 1_000
MAX_NEW_TOKENS = 240


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.lossless",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clips", type=options.count, default=100)
    parser.add_argument("--visual-tokens", type=options.clip_length, default=500)
    parser.add_argument(
        "--trees", type=options.tree, nargs="+", default=["6-5-1", "25-5-8", "30-4-8"]
    )
    parser.add_argument(
        "--json", type=options.to_write, metavar="FILE", help="write the rows there too"
    )
    arguments = parser.parse_args()
    rows = measure(arguments.clips, arguments.visual_tokens, arguments.trees)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    print_table(rows)
    if arguments.json is not None:
        records.write(arguments.json, "bench.lossless", rows)
    return int(any(row["identical"] != row["clips"] for row in rows))


def measure(clips: int, visual_tokens: int, trees: Sequence[str]) -> list[dict[str, Any]]:
    """Decode `clips` unseen clips plainly and with each tree; a row a tree and question type."""
    pair = load_pair()
    decoders = {
        tree: SparrowDecoder(pair.target, pair.draft, TreeConfig.parse(tree)) for tree in trees
    }
    kinds = list(QUESTIONS)
    tallies = {(tree, kind): Tally() for tree in trees for kind in kinds}
    for turn in tqdm(range(clips), unit="clip", file=sys.stderr):
        script = make_clip(visual_tokens, FIRST_SEED + turn)
        kind = kinds[turn % len(kinds)]
        question = ask(kind, script, np.random.default_rng(turn)).question
        frames, fps = through_mp4(script)
        inputs = clip_inputs(pair.processor, frames, fps, question)
        settings: dict[str, Any] = {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": False}
        plain = pair.target.generate(**inputs, **settings)
        for tree, decoder in decoders.items():
            result = decoder.generate(**inputs, **settings)
            tallies[tree, kind].add(plain, result)
    return [
        {"tree": tree, "question": kind, **tally.row()}
        for (tree, kind), tally in tallies.items()
        if tally.clips
    ]


@dataclass
class Tally:
    """Counts over the clips of one tree and question type."""

    clips: int = 0
    identical: int = 0
    emitted: int = 0
    target_calls: int = 0

    def add(self, plain: torch.Tensor, result: SparrowOutput) -> None:
        """Count one clip: `plain` `[1, prompt + new]` is what `generate` returned."""
        assert result.sequences is not None and result.stats is not None
        self.clips += 1
        self.identical += torch.equal(plain, result.sequences)
        self.emitted += result.stats.new_tokens - 1
        self.target_calls += result.stats.target_calls

    def row(self) -> dict[str, Any]:
        """A row to print."""
        mean_emitted = self.emitted / self.target_calls if self.target_calls else None
        return {"clips": self.clips, "identical": self.identical, "mean_emitted": mean_emitted}


if __name__ == "__main__":
    sys.exit(main())
