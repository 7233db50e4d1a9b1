"""The generated blocks of docs/kernels: what is counted, what the compiler made of the kernels, and
where a prediction is off."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import plans, predicted, records, rows, static_table
from bench.blocks import table
from bench.devices import H100, H200
from bench.matches import matches
from bench.static_table import Row

_TILE = re.compile(r"tree_attention D(\d+) (bf16|fp32) M(\d+)(?:\+(\d+))?( anchors)?( unfenced)?")
_FLOAT8_SLOTS = {16: 64, 64: 64, 128: 128}
"""Of a tile of head dim 128, by its rows."""


def work(results: Path) -> str:
    """What a call of tree attention moves and computes on an H100, and in how many splits."""
    lines = []
    for nodes in (8, 30, 60):
        call = plans.Call(nodes, (25_600,))
        found = plans.cut(H100, call)
        rows_of_head = nodes * call.heads // call.kv_heads
        slots, width = 25_600, call.head_dim * call.dtype.itemsize
        cache = 2 * (slots + nodes) * call.kv_heads * width
        splits = 2 * found.num_splits * call.heads * nodes * (width + 4)
        flops = 4 * call.head_dim * call.heads * nodes * slots
        padded = flops * found.padded_rows(call) // rows_of_head
        lines.append([
            str(nodes), str(rows_of_head), f"{cache / 1e6:.1f} MB",
            f"{2 * call.heads * nodes * width / 1e6:.1f} MB",
            f"{found.num_splits}: {splits / 1e6:.1f} MB", f"{flops / 1e9:.1f}",
            f"{padded / 1e9:.1f}", str(rows_of_head), f"{call.heads * nodes * slots / 1e6:.1f}",
        ])  # fmt: skip
    columns = ["T", "rows a KV head", "K and V", "Q, out", "splits", "Gflop", "with padded rows",
               "flop / byte", "M exponentials"]  # fmt: skip
    return table(columns, lines)


def registers(results: Path) -> str:
    """Of each plain tile: registers of a thread, shared memory and programs on a multiprocessor."""
    found: dict[tuple[str, ...], dict[str, list[tuple[int, str]]]] = {}
    for row in _newest(results):
        match = _TILE.fullmatch(row["kernel"])
        if match is None:
            continue
        head_dim, dtype, first, second, anchors, unfenced = match.groups()
        key = (unfenced or "", dtype, f"{int(head_dim):3}", anchors or "")
        size = f"{first} + {second}" if second else first
        text = f"{size}: {row['registers']}, {_kilobytes(row)}, {_programs(row)}"
        place = int(first) + int(second or 0)
        found.setdefault(key, {}).setdefault(row["arch"], []).append((place, text))
    lines = [
        [
            f"D {head_dim.strip()}, {dtype}{anchors.replace(' ', ', ')}"
            + (", without fences" if unfenced else ""),
            *("; ".join(text for _, text in sorted(by_arch.get(arch, []))) or "–"
              for arch in ("sm_90", "sm_80")),
        ]
        for (unfenced, dtype, head_dim, anchors), by_arch in sorted(found.items())
    ]  # fmt: skip
    return table(["rows: registers, KB shared, programs", "9.0", "8.0"], lines)


def float8(results: Path) -> str:
    """A turn of the main loop over a float8 cache beside one of 16 bits, head dim 128."""
    by_name = {row["kernel"]: row for row in _newest(results) if row["arch"] == "sm_90"}
    lines = []
    for size, slots in _FLOAT8_SLOTS.items():
        name = f"tree_attention D128 bf16 M{size}"
        if f"{name} float8" not in by_name:
            continue
        narrow, wide = by_name[f"{name} float8"], by_name[name]
        half, whole = (
            " / ".join(f"{_cycles(slots * bytes_of_slot, device):,}" for device in (H100, H200))
            for bytes_of_slot in (2 * 128, 4 * 128)
        )
        lines.append([
            str(size), str(slots), _instructions(narrow), _instructions(wide),
            f"{narrow['registers']}, {_kilobytes(narrow)} KB", f"{int(narrow['issue_cycles']):,}",
            f"{int(wide['issue_cycles']):,}", half, whole,
        ])  # fmt: skip
    columns = ["rows", "slots", "instructions of a warp", "16 bits", "registers, shared",
               "turn takes at least, cycles", "16 bits", "bytes of a turn take, H100 / H200",
               "16 bits"]  # fmt: skip
    return table(columns, lines)


def missed(results: Path) -> str:
    """Which of our times, measured on a GPU, lie outside the range predicted for it."""
    paths = sorted(results.glob("bench-*.csv"))
    measured = [
        row for path in paths for row in rows.read(path) if row.cuda and "smoke" not in path.name
    ]
    lines, count = [], 0
    for match in matches(measured):
        ours = match.ours
        device = predicted.known(ours.device)
        range_of = device and predicted.of_case(ours.op, ours.case.split(), device)
        if not range_of or ours.us_p50 is None:
            continue
        count += 1
        if not range_of.us_low <= ours.us_p50 <= range_of.us_high:
            lines.append([f"`{ours.op}`", ours.case, f"{ours.us_p50:.3g}", range_of.text])
    says = f"{len(lines)} of {count} times lie outside the range that is predicted now."
    return f"{says}\n\n{table(['op', 'case', 'measured, µs', 'predicted, µs'], lines)}"


def page_floor(results: Path) -> str:
    """What pages cost one node's attention on a CPU, and a loop that only reads the same rows."""
    path = results / "page_floor.json"
    lines = [
        [
            f"{row['slots']:,}",
            *(f"{row[f'{way}_{what}']:{how}}" for way in ("op", "bare") for what, how in _RATIO),
        ]
        for row in records.read(path).rows
    ]
    columns = ["slots", "op, µs", "in pages", "bare, µs", "in pages"]
    return f"{table(columns, lines)}\n\n{records.made_by(path)}"


_RATIO = (("us", ",.0f"), ("ratio", ".2f"))
BLOCKS: dict[str, Callable[[Path], str]] = {
    "tree-work": work,
    "tree-registers": registers,
    "float8-turns": float8,
    "predictions-missed": missed,
    "page-floor": page_floor,
}


def _newest(results: Path) -> Sequence[Row]:
    """Rows of the newest Triton in the static table."""
    found = [
        row
        for row in static_table.read(results / static_table.TABLE.name)
        if row["compiler"].startswith("triton ")
    ]
    newest = max((_version(row) for row in found), default=[])
    return [row for row in found if _version(row) == newest]


def _version(row: Row) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", row["compiler"])]


def _kilobytes(row: Row) -> str:
    return f"{int(row['smem_bytes']) / 1024:.0f}"


def _programs(row: Row) -> str:
    """That fit on a multiprocessor together."""
    return f"{float(row['occupancy']) * 64 * 32 / int(row['threads']):.0f}"


def _instructions(row: Row) -> str:
    return f"{int(row['issue_cycles']) * 4 * 32 / int(row['threads']):,.0f}"


def _cycles(num_bytes: int, device: plans.Device) -> int:
    return round(num_bytes * device.multiprocessors / device.bandwidth * 1e9 * device.ghz)
