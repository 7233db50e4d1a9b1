"""`bench.step` on a tiny configuration: every way runs, and its ratios are those of its times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import step, stepping


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"])
def test_every_way_runs_and_is_compared_with_its_like(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "step.json"
    monkeypatch.setattr(step, "PAPER_TAU", {40: 4.0})
    words = ["bench.step", "--tiny", "--family", family, "--slots", "40", "--json", str(out)]
    monkeypatch.setattr("sys.argv", words)
    # Compiling takes longer than all the rest, and has tests of its own.
    ways = step._ways
    monkeypatch.setattr(
        step, "_ways", lambda model, scale: [way for way in ways(model, scale) if not way.compiled]
    )
    filled = step.filled
    monkeypatch.setattr(step, "filled", lambda *given: filled(*given[:3], False))
    assert step.main() == 0
    found = {row["way"]: row for row in json.loads(out.read_text())["rows"]}
    plain, theirs = found["plain"]["step_ms"], found["plain, as it comes"]["step_ms"]
    speculative = [row for way, row in found.items() if way.startswith("speculative")]
    assert len(speculative) == len(stepping.TINY.trees) + 2
    for row in speculative:
        total = row["draft_ms"] + row["verify_ms"] + row["commit_ms"]
        assert row["step_ms"] == pytest.approx(total)
        assert row["breaks_even_at_tau"] == pytest.approx(total / plain)
        assert row["x_plain"] == pytest.approx(4.0 * plain / total)
        assert row["x_as_it_comes"] == pytest.approx(4.0 * theirs / total)
