"""The generated blocks of README and docs: Markdown made of the result files of one folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from bench import decoder_goals, goals, records, rows
from bench.matches import Match, matches, median
from bench.rows import Row

_COMMANDS = {
    "cpu": "python -m bench.run --all --device cpu --quick --out bench/results",
    "cuda": "bench/gpu_suite.sh",
    "demo": "python -m bench.demo --json bench/results/demo.json",
    "step": "python -m bench.step --json bench/results/step.json",
    "drafts": "python -m bench.drafts --json bench/results/drafts.json",
    "ablation": "python -m bench.ablation --csv bench/results/ablation.csv",
    "real-language": "python -m bench.real_language --json bench/results/real_language.json",
}


def table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    made = [columns, ["---"] * len(columns), *lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in made)


def ops(device: str, results: Path) -> str:
    """Every case: our best, its share of the floor, and the fastest peer."""
    found = _found(results, device)
    if not found:
        return _missing(device)
    lines = [
        [
            f"`{match.op}`", match.case, match.dtype, match.inputs, match.ours.backend,
            _time(match.ours), _percent(match.ours.percent_of_floor),
            match.peers[0].backend if match.peers else "-",
            _best_ratio_text(match) if match.peers else "-",
        ]
        for match in matches(found)
    ]  # fmt: skip
    columns = ["op", "case", "dtype", "inputs", "ours", "µs (p20–p80)", "% of floor",
               "fastest peer", "its time / ours"]  # fmt: skip
    doubts = "".join(f"\n\n{_DOUBT}: {text}." for text in _doubts(found))
    return f"{_made_by(found)}\n\n{table(columns, lines)}{doubts}"


def losses(device: str, results: Path) -> str:
    """Where a peer is faster, the worst first."""
    found = _found(results, device)
    if not found:
        return _missing(device)
    lost = [match for match in matches(found) if match.peers and _best_ratio(match) < 1]
    if not lost:
        return "No peer is faster in any case measured."
    lines = [
        [
            f"`{match.op}`", match.case, match.ours.backend, _time(match.ours),
            match.peers[0].backend, _time(match.peers[0]), _best_ratio_text(match),
        ]
        for match in sorted(lost, key=_best_ratio)
    ]  # fmt: skip
    columns = ["op", "case", "ours", "µs (p20–p80)", "peer", "its µs", "its time / ours"]
    return table(columns, lines)


def speed_goals(results: Path) -> str:
    """The goals of `bench.goals` against what was measured on a GPU."""
    found = _found(results, "cuda")
    lines = [
        [goal.name, goal.rule.asks.replace(" us", " µs"),
         outcome.text.replace(" us", " µs") if outcome.is_met is not None else "-", outcome.word,
         goals.forecast(goal, goals.USUAL_DEVICE).replace(" us", " µs")]
        for goal, outcome in goals.judged(found)
    ]  # fmt: skip
    made = f"{_made_by(found)}\n\n" if found else ""
    column = f"predicted, not measured ({goals.USUAL_DEVICE})"
    return made + table(["goal", "asks", "measured", "", column], lines)


def demo(results: Path) -> str:
    """The README's table of `make demo`."""
    if not (results / "demo.json").exists():
        return _missing("demo")
    record = records.read(results / "demo.json")
    lines = [
        [
            f"{row['visual_tokens']:,}", "yes" if row["identical"] else "NO",
            f"{row['mean_emitted']:.2f}", f"{row['ms_a_token']:.2f}",
            f"{row['ms_a_token_plain']:.2f}", f"{row['ms_a_token_generate']:.2f}",
            f"**{row['speedup_plain']:.2f}**", f"{row['speedup_generate']:.2f}",
            f"{row['speedup_end_to_end']:.2f}",
        ]
        for row in record.rows
    ]  # fmt: skip
    columns = ["visual tokens", "identical text", "`mean_emitted`", "ms a token", "our plain loop",
               "`generate`", "× plain loop", "× `generate`", "end to end"]  # fmt: skip
    return table(columns, lines)


def step(results: Path) -> str:
    """What a step of a 7B target takes, and the speedups that follow."""
    if not (results / "step.json").exists():
        return _missing("step")
    record = records.read(results / "step.json")
    lines = [
        [
            f"{row['slots']:,}", row["way"],
            *(_milliseconds(row.get(f"{phase}_ms")) for phase in ("draft", "verify", "commit")),
            _milliseconds(row["step_ms"]), _times(row.get("breaks_even_at_tau")),
            _times(row.get("assumed_tau")), _times(row.get("x_plain")),
            _times(row.get("x_as_it_comes")),
        ]
        for row in record.rows
    ]  # fmt: skip
    columns = ["slots", "way", "draft ms", "verify ms", "commit ms", "step ms", "breaks even at τ",
               "assumed τ", "× plain alike", "× as it comes"]  # fmt: skip
    return f"{records.made_by(results / 'step.json')}\n\n{table(columns, lines)}"


def drafts(results: Path) -> str:
    """Drafts of every system, with the clip in their sight and out of it, at each length."""
    if not (results / "drafts.json").exists():
        return _missing("drafts")
    found = records.read(results / "drafts.json")
    lines = [
        [
            str(row["draft"]), str(row["sees_clip"]), f"{row['visual_tokens']:,}",
            "yes" if row["identical"] else "NO", f"{row['mean_emitted']:.2f}",
            _milliseconds(row["draft_prefill_ms"]), _milliseconds(row["draft_ms_a_call"]),
            _times(row["speedup"]),
        ]
        for row in found.rows
    ]  # fmt: skip
    columns = ["draft", "sees of the clip", "visual tokens", "identical text", "`mean_emitted`",
               "draft prefill, ms", "draft, ms a call", "× plain loop"]  # fmt: skip
    return f"{records.made_by(results / 'drafts.json')}\n\n{table(columns, lines)}"


def real_language(results: Path) -> str:
    """A draft of a language model that no one here trained, beside prompt lookup."""
    path = results / "real_language.json"
    if not path.exists():
        return _missing("real-language")
    lines = [
        [
            f"{row['temperature']:g}", str(row["texts"]), str(row["draft"]), str(row["prompts"]),
            "-" if row["identical"] is None else f"{row['identical']} of {row['prompts']}",
            "-" if row["near_ties"] is None else str(row["near_ties"]),
            f"{row['mean_emitted']:.2f}", _times(row["speedup_plain"]),
            _times(row["speedup_generate"]),
        ]
        for row in records.read(path).rows
    ]  # fmt: skip
    columns = ["T", "texts", "draft", "prompts", "identical text", "near ties", "`mean_emitted`",
               "× plain loop", "× `generate`"]  # fmt: skip
    return f"{records.made_by(path)}\n\n{table(columns, lines)}"


def ablation(results: Path) -> str:
    """Tokens a call of every draft of the ablation, by visual length."""
    from bench.ablation import results as ablated  # with it come the decoder and transformers

    path = results / "ablation.csv"
    return ablated.table(path) if path.exists() else _missing("ablation")


def ablation_claims(results: Path) -> str:
    """The paper's claims, judged by the same file."""
    from bench.ablation import claims

    path = results / "ablation.csv"
    return claims.table(path) if path.exists() else _missing("ablation")


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def worlds(results: Path) -> str:
    """The embedded pairs, each on unseen clips of its own world."""
    files = {"easy": ("evaluation",), "harder": ("evaluation-harder", "evaluation-harder-2k")}
    kinds = ("brief", "list", "color", "count", "shape", "action", "place")
    found = [
        (world, row)
        for world, names in files.items()
        for path in (results / f"{name}.json" for name in names)
        if path.exists()
        for row in records.read(path).rows
    ]
    lines = [
        [
            world, f"{row['visual_tokens']:,}", str(row["clips"]), f"{row['content']:.1%}",
            *(f"{row[kind]:.0%}" if kind in row else "-" for kind in ("exact", *kinds)),
            f"{row['mean_emitted']:.2f}", f"{row['mean_emitted_other_clip']:.2f}",
        ]
        for world, row in found
    ]  # fmt: skip
    columns = ["world", "visual tokens", "clips", "content words", "captions", *kinds,
               "`mean_emitted`", "of another clip"]  # fmt: skip
    return table(columns, lines)


def decoding(results: Path) -> str:
    """The goals of decoding: what the demo, the lossless run and the evaluation found."""
    lines = [[goal.name, *goal.judged(results)] for goal in decoder_goals.GOALS]
    paths = [results / file for file in decoder_goals.BY]
    made = [records.made_by(path) for path in paths if path.exists()]
    return "  \n".join(made) + f"\n\n{table(['goal', 'measured', 'by', ''], lines)}"


BLOCKS: dict[str, Callable[[Path], str]] = {
    "demo": demo,
    "decoding": decoding,
    "step": step,
    "drafts": drafts,
    "ablation": ablation,
    "ablation-claims": ablation_claims,
    "real-language": real_language,
    "worlds": worlds,
    "speed-goals": speed_goals,
    "ops-cpu": partial(ops, "cpu"),
    "ops-cuda": partial(ops, "cuda"),
    "losses-cpu": partial(losses, "cpu"),
    "losses-cuda": partial(losses, "cuda"),
}


def _found(results: Path, device: str) -> list[Row]:
    """The rows of every result file in a folder that were measured on a cpu, or by cuda."""
    paths = [path for path in sorted(results.glob("bench-*.csv")) if "smoke" not in path.name]
    found = [row for path in paths for row in rows.read(path)]
    return [row for row in found if bool(row.cuda) == (device == "cuda")]


def _missing(what: str) -> str:
    return f"Not yet measured (`{_COMMANDS[what]}`)."


def _made_by(found: Sequence[Row]) -> str:
    """Commands, machine and versions: a line for each run."""
    return "  \n".join(dict.fromkeys(_run(row) for row in found))


def _run(row: Row) -> str:
    parts = [f"`{row.command}`", row.device]
    parts += [f"driver {row.driver}, CUDA {row.cuda}"] if row.cuda else []
    parts += [f"torch {row.torch}"] + ([f"triton {row.triton}"] if row.triton else [])
    dirty = " and changes" if row.dirty else ""
    return "; ".join([*parts, f"commit {row.commit}{dirty}", row.time[:10]])


def _best_ratio(match: Match) -> float:
    return match.ratio(match.peers[0])


_DOUBT = "Not to be believed"


def _best_ratio_text(match: Match) -> str:
    """The ratio and its range; doubted where one of the two times is."""
    low, high = match.ratio_range(match.peers[0])
    doubt = " (not to be believed)" if match.ours.doubt or match.peers[0].doubt else ""
    return f"{_ratio(_best_ratio(match))} ({_ratio(low)}–{_ratio(high)}){doubt}"


def _doubts(found: Sequence[Row]) -> list[str]:
    """Which of the rows shown are doubted, and why."""
    shown = [row for match in matches(found) for row in (match.ours, *match.peers[:1])]
    return [f"`{row.op}`, {row.case}, {row.backend}: {row.doubt}" for row in shown if row.doubt]


def _time(row: Row) -> str:
    return f"{_digits(median(row))} ({_digits(row.us_p20 or 0)}–{_digits(row.us_p80 or 0)})"


def _digits(microseconds: float) -> str:
    return f"{microseconds:,.0f}" if microseconds >= 100 else f"{microseconds:.3g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0f}"


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 100 else f"{ratio:,.0f}"
