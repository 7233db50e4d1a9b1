"""What each part of the method is worth, on the embedded target.

    python -m bench.ablation --csv bench/results/ablation.csv --plot docs/ablation

Trains seven drafts for each of three seeds on the same clips, then replays the target's greedy
captions of unseen clips with each, the clip in its sight and out of it. Everything is kept in
--folder: interrupt it when you like, the same command goes on. Some two hours of two cores.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from bench import options


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, default=Path("build/ablation"))
    parser.add_argument("--steps", type=options.count, default=300,
                        help="of each draft (default: 300)")  # fmt: skip
    parser.add_argument("--csv", type=options.to_write, default=Path("build/ablation/ablation.csv"))
    parser.add_argument(
        "--plot", type=options.to_write, metavar="STEM", help="of pictures, light and dark"
    )
    parser.add_argument("--train-only", action="store_true", help="stop before measuring")
    arguments = parser.parse_args()
    if arguments.plot is not None and (why := options.no_plots()):
        parser.error(f"argument --plot: {why}")  # rather than hours later
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded
    from bench.ablation import results
    from bench.ablation.measuring import measure
    from bench.ablation.systems import SEEDS
    from bench.ablation.training import train_seed
    from sparrow_kernels.models.pair import load_target

    target, processor = load_target()
    target.requires_grad_(False)
    folder = arguments.folder / str(arguments.steps)
    for seed in SEEDS:
        train_seed(target, processor, folder, seed, arguments.steps)
    if arguments.train_only:
        return 0
    results.write_csv(measure(target, processor, folder), arguments.csv)
    print(results.table(arguments.csv))
    if arguments.plot is not None:
        results.draw(arguments.csv, arguments.plot)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
