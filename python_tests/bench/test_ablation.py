"""The ablation's way from clips to a table, over planted clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import blocks
from bench.ablation import claims, results
from bench.ablation.measuring import lines_of


def clip(length: int, number: int, *emitted: tuple[str, int, bool, list[int]]) -> dict[str, Any]:
    names = ("system", "seed", "vata", "histogram")
    found = [dict(zip(names, each, strict=True)) for each in emitted]
    return {"visual_tokens_asked": length, "clip": number, "checked": 2, "emitted": found}


# Index k of a histogram counts the calls that emitted k tokens.
CLIPS = [
    clip(64, 0, ("MSD", 0, True, [0, 2, 0, 2]), ("MSD", 1, True, [0, 0, 0, 4])),
    clip(64, 1, ("MSD", 0, True, [0, 0, 0, 4]), ("MSD", 1, True, [0, 0, 0, 2])),
    clip(2_000, 0, ("MSD", 0, True, [0, 4, 0, 0]), ("MSD", 1, True, [0, 0, 2, 0])),
]


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    path = tmp_path / "clips.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in CLIPS) + '{"cut": ')
    results.write_csv(path, tmp_path / "ablation.csv")
    return tmp_path / "ablation.csv"


def test_tokens_a_call_over_all_clips_of_a_seed(measured: Path) -> None:
    lines = measured.read_text().splitlines()
    assert lines[0] == "system,vata,seed,visual_tokens,clips,checked,mean_emitted"
    assert lines[1:] == [
        "MSD,True,0,64,2,2,2.5000",  # 2 calls of one token, 6 of three
        "MSD,True,0,2000,1,1,1.0000",
        "MSD,True,1,64,2,0,3.0000",
        "MSD,True,1,2000,1,0,2.0000",
    ]


def test_a_table_with_the_deviation_over_seeds(measured: Path) -> None:
    head, _, line = results.table(measured).splitlines()
    assert head == "| draft | VATA | 64 | 2k |"
    assert line == "| MSD | yes | 2.75 ± 0.35 | 1.50 ± 0.71 |"
    assert blocks.ablation(measured.parent) == results.table(measured)
    assert "not yet measured" in blocks.ablation(measured.parent / "elsewhere").lower()


def test_claims_are_judged_by_the_means(tmp_path: Path) -> None:
    """Planted: VATA flat, the clip's drafts falling but for one, MTP a gain, IVSB none."""
    means = {
        ("EAGLE-2 style", False): (4.0, 3.0), ("EAGLE-2 style", True): (4.0, 3.92),
        ("+ MTP", False): (4.5, 3.5), ("+ MTP", True): (4.5, 4.4),
        ("+ MTP + IVSB", False): (4.6, 1.2), ("+ MTP + IVSB", True): (4.4, 4.4),
        ("ViSpec", False): (4.2, 4.1), ("ViSpec", True): (4.2, 4.1),
    }  # fmt: skip
    lines = [",".join(results.COLUMNS)]
    for (system, vata), by_length in means.items():
        for length, mean in zip((64, 24_000), by_length, strict=True):
            lines += [f"{system},{vata},{seed},{length},9,0,{mean}" for seed in (0, 1)]
    path = tmp_path / "ablation.csv"
    path.write_text("\n".join(lines) + "\n")
    flat, falls, gains, bridge = claims.claims(path)
    assert flat.verdict == "confirmed" and "-2% (EAGLE-2 style), -2% (+ MTP)" in flat.measured
    assert falls.verdict == "confirmed, but for ViSpec" and "-74% (+ MTP + IVSB)" in falls.measured
    assert gains.verdict == "confirmed" and gains.measured.startswith("+0.50 to +0.50 with")
    assert bridge.verdict == "not confirmed" and bridge.measured.startswith("-0.10 to +0.00 with")
    assert "24k within 5 %" in claims.table(path)


def test_a_line_that_was_cut_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "clips.jsonl"
    path.write_text('{"clip": 0}\n{"clip": 1')
    assert list(lines_of(path)) == [{"clip": 0}]
    assert path.read_text() == '{"clip": 0}\n'


def test_the_figure_is_drawn_light_and_dark(measured: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = results.draw(measured, tmp_path / "found")
    names = {f"found-{theme}.{kind}" for theme in ("light", "dark") for kind in ("svg", "png")}
    assert {path.name for path in drawn} == names
    assert all(path.stat().st_size > 5_000 for path in drawn)
    assert len({path.read_bytes() for path in drawn}) == len(names)
