"""What every case should take on an H100, an H200 and an A100, by arithmetic alone.

    python -m bench.predict            # prints and writes bench/results/predicted.csv
    python -m bench.predict --check    # writes nothing: is the file what would be written?

Every row is predicted, not measured, and its column `basis` says from what:

  fitted      tree attention: the model of `bench.plans`, whose constants come from replays on an
              H200 to within 8 %; there the range is 10 %, elsewhere 25 %
  arithmetic  everything else: launches, memory round trips that wait for one another, and the
              bytes or operations at a share of the device's rates; the range is 35 %. An H200 has
              measured two of these: merge_attention (3.8 us) and anchor_index (27.5 us, where one
              block walks the slots, whatever the bytes).
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench import floors, plans, predicted, registry, walks
from bench.case import Case
from bench.cases.attention import AnchorIndex, TreeAttention
from bench.cases.draft import AnchoredTreeAttention
from bench.cases.forms import Float8TreeAttention
from bench.cases.pages import AttentionMass, BiasedTreeAttention, PagedTreeAttention
from bench.cases.sampling import AcceptTreeResidual
from bench.devices import DEVICES, H200, Device
from bench.predicted import COLUMNS, TABLE
from bench.rows import RESULTS
from bench.selection import Selection
from bench.shapes import MODELS

_LAUNCH_US = 2.0
"""From one kernel of a graph to the next, the drain of the first included."""
_TRIP_US = 0.7
"""A load from memory that something waits for, or a barrier of a cluster with its fences."""
_FITTED, _ARITHMETIC = "fitted", "arithmetic"


class Steps(NamedTuple):
    """What an op does besides moving its bytes."""

    launches: int
    """Kernels, those that PyTorch launches for it included."""
    trips: float
    """Memory round trips and barriers, one after another."""
    share: float = 0.85
    """Of the device's rates that its bulk reaches."""


_STEPS = {
    "build_tree": Steps(1, 1.5),
    "select_tree": Steps(1, 4),
    "dense_tree_mask": Steps(14, 14),
    "pack_ancestors": Steps(6, 6),
    "unpack_ancestors": Steps(4, 4),
    "accept_tree": Steps(1, 1.5),
    "topk_logprobs": Steps(2, 4),
    "sample_tokens": Steps(2, 4),
    "sample_logits": Steps(2, 5),
    "gather_hidden": Steps(1, 1),
    "commit_tree_": Steps(1, 3.5),
    "commit_path_": Steps(1, 2.5),
    "compact_cache_": Steps(1, 2),
    "append_cache_": Steps(1, 0.5),
    "rotate_append_": Steps(1, 0.7),
    "merge_attention": Steps(1, 0.5),
    "anchored_window_attention": Steps(3, 4, 0.4),
    # Of float8 caches: lengths and queries, the first tile, masked tiles, and what the merge loads;
    # the share is that of a loop that converts, at two thirds of an instruction a clock.
    "tree_attention": Steps(2, 5, 0.7),
}


def microseconds(case: Case, device: Device) -> tuple[float, str]:
    """The middle of the range, and what it is based on."""
    is_float8 = isinstance(case, Float8TreeAttention)
    if isinstance(case, TreeAttention) and not is_float8:
        return _of_tree(case, device, (case.prefix,) * case.batch), _FITTED
    if isinstance(case, AnchoredTreeAttention):
        # Anchors and window, in loops one after another: what they hold, and a masked tile a loop.
        seen = case.anchors + case.window
        return _of_tree(case, device, (seen,) * case.batch) + 2 * plans.PRESENT.masked, _ARITHMETIC
    if isinstance(case, AnchorIndex):
        return 27.5 * case.slots / 25_600 * H200.ghz / device.ghz, _ARITHMETIC  # as measured
    if isinstance(case, AcceptTreeResidual):
        return walks.microseconds(case, device), _ARITHMETIC
    if isinstance(case, AttentionMass):
        return _of_mass(case, device), _ARITHMETIC
    steps = _STEPS.get(case.op)
    if steps is None:
        raise ValueError(f"no steps of {case.op}")
    bulk = floors.floor(case, device.rates(case.dtype)).microseconds / steps.share
    return _LAUNCH_US * steps.launches + _TRIP_US * steps.trips + bulk, _ARITHMETIC


def _of_tree(
    case: TreeAttention | AnchoredTreeAttention, device: Device, lengths: tuple[int, ...]
) -> float:
    model = MODELS[case.model]
    sizes = (model.heads, model.kv_heads, model.head_dim, case.dtype)
    indirect = isinstance(case, (PagedTreeAttention, BiasedTreeAttention))
    return plans.cut(device, plans.Call(case.nodes, lengths, *sizes, indirect)).us


def _of_mass(case: AttentionMass, device: Device) -> float:
    """Log-sum-exps, the join of their splits, the masses. Where the masses' turns were 737
    instructions, an H200 took 2.2 times as long as it takes to issue them; now a turn of 64 rows is
    297 for 64 slots, three blocks a multiprocessor, and 490 for 128, two blocks."""
    model = MODELS[case.model]
    rows = -(-case.rows * (model.heads // model.kv_heads) // 64)
    places = model.kv_heads * case.batch
    products = 2 * 64 * 64 * model.head_dim / device.tensor_flops
    of_lse = rows * -(-case.prefix // 64) * places / device.multiprocessors * max(297, products)
    blocks = -(-case.prefix // 128) * places
    waves = -(-blocks // (2 * device.multiprocessors))
    of_mass = waves * rows * 2 * max(490, 2 * products)
    return 3 * _LAUNCH_US + 2.2 * (of_lse + of_mass) / (1e3 * device.ghz)


def runs(case: Case, device: Device) -> bool:
    """Whether a kernel takes the case there: float8 caches are for 9.0."""
    return device.arch == 90 or not isinstance(case, Float8TreeAttention)


def rows() -> Iterator[dict[str, str]]:
    """A row a case of a full run and device; one dtype a case."""
    seen = set()
    for case in registry.cases(Selection("cuda", "full")):
        for device in DEVICES:
            key = (case.op, case.name, device.name)
            if key in seen or not runs(case, device):
                continue
            seen.add(key)
            middle, basis = microseconds(case, device)
            error = 0.35 if basis == _ARITHMETIC else 0.10 if device is H200 else 0.25
            floor = floors.floor(case, device.rates(case.dtype)).microseconds
            values = (
                *key, f"{middle * (1 - error):.3g}", f"{middle * (1 + error):.3g}", f"{floor:.3g}",
                f"{100 * floor / middle:.0f}", f"{basis}: predicted, not measured",
            )  # fmt: skip
            yield dict(zip(COLUMNS, values, strict=True))


def written() -> str:
    """The file."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows())
    return text.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="compare the file, write nothing")
    arguments = parser.parse_args(argv)
    text = written()
    if arguments.check:
        is_same = TABLE.exists() and TABLE.read_text(encoding="utf-8") == text
        print("up to date" if is_same else "stale (python -m bench.predict)")
        return int(not is_same)
    print(text, end="")
    TABLE.write_text(text, encoding="utf-8")
    predicted.read.cache_clear()
    print(f"written to {TABLE.relative_to(RESULTS.parents[1])}: predicted, not measured")
    return 0


if __name__ == "__main__":
    sys.exit(main())
