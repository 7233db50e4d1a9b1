"""Greedy speculative text against `model.generate(do_sample=False)`, over many unseen clips.

    python -m bench.lossless                    # 100 clips x trees 6-5-1, 25-5-8, 30-4-8
    python -m bench.lossless --clips 12 --trees 6-5-1

Clips are spread evenly over captions and question types. Ends with an error if any text differs.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

import numpy as np
import torch
import transformers
from tqdm import tqdm

from bench.table import print_table
from sparrow_kernels.decoding import TreeConfig
from sparrow_kernels.embedded.captions import QUESTIONS, ask
from sparrow_kernels.embedded.clips import make_clip
from sparrow_kernels.embedded.evaluation import through_mp4
from sparrow_kernels.models.decoder import SparrowDecoder
from sparrow_kernels.models.pair import load_pair
from sparrow_kernels.models.small_target import clip_inputs

FIRST_UNSEEN_SEED = 700_000
MAX_NEW_TOKENS = 240


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--visual-tokens", type=int, default=500)
    parser.add_argument("--trees", nargs="+", default=["6-5-1", "25-5-8", "30-4-8"])
    arguments = parser.parse_args()
    pair = load_pair()
    decoders = {
        tree: SparrowDecoder(pair.target, pair.draft, TreeConfig.parse(tree))
        for tree in arguments.trees
    }
    kinds = list(QUESTIONS)
    same: Counter[str] = Counter()
    emitted: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for turn in tqdm(range(arguments.clips), unit="clip", file=sys.stderr):
        script = make_clip(arguments.visual_tokens, FIRST_UNSEEN_SEED + turn)
        kind = kinds[turn % len(kinds)]
        question = ask(kind, script, np.random.default_rng(turn)).question
        frames, fps = through_mp4(script)
        inputs = clip_inputs(pair.processor, frames, fps, question)
        settings = {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": False}
        plain = pair.target.generate(**inputs, **settings)
        asked[kind] += 1
        for tree, decoder in decoders.items():
            result = decoder.generate(**inputs, **settings)
            same[tree] += torch.equal(plain, result.sequences)
            emitted[tree] += result.stats.new_tokens - 1
            calls[tree] += result.stats.target_calls
    rows = [
        {
            "tree": tree,
            "clips": arguments.clips,
            "identical": same[tree],
            "mean_emitted": emitted[tree] / max(1, calls[tree]),
        }
        for tree in arguments.trees
    ]
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, questions:",
        ", ".join(f"{count} {kind}" for kind, count in asked.items()),
    )
    print_table(rows)
    return int(any(same[tree] != arguments.clips for tree in arguments.trees))


if __name__ == "__main__":
    sys.exit(main())
