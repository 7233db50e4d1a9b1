"""The page of a trace: what it holds, what cannot leave its data, what a browser makes of it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("PIL")

from sparrow_kernels.decoding import StepTrace
from sparrow_kernels.decoding.stats import DecodeStats, RequestStats
from sparrow_kernels.measuring.trace_page import Asked, Speed, trace_page
from sparrow_kernels.measuring.trace_page.film import film_of
from sparrow_kernels.measuring.trace_page.words import words_of

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom"),
)
HOSTILE = (
    "</script><script>console.error('out')</script>",
    "<!--<script>",
    '"><img src=x onerror=console.error(1)>',
    "/*{{data}}*/ \\u0026 & \u2028 \ud800",
)
WELL_FORMED = HOSTILE[3].replace("\ud800", "?")


class Letters:
    """A tokenizer whose token n is a word; 90 to 93 are hostile, 98 and 99 halves of a letter."""

    def decode(self, tokens: list[int], skip_special_tokens: bool = False) -> str:
        text = ""
        for token in tokens:
            if token == 99:
                text = text[:-1] + "é" if text.endswith("\ufffd") else text + "\ufffd"
            else:
                text += "\ufffd" if token == 98 else self._word(token, skip_special_tokens)
        return text

    def _word(self, token: int, skip: bool) -> str:
        if token == 0:
            return "" if skip else "<end>"
        return HOSTILE[token - 90] if token in range(90, 94) else f" w{token}"


def step(request: int, number: int, path: list[int], emitted: list[int], nodes: int = 4) -> Any:
    """A step whose node n is below node (n - 1) // 2, of tokens that its path has emitted."""
    tokens = [7, *(30 + node for node in range(1, nodes))]
    for node, token in zip(path[1:], emitted, strict=False):
        tokens[node] = token
    depth = [0] * nodes
    for node in range(1, nodes):
        depth[node] = depth[(node - 1) // 2] + 1
    scores = [-0.7 * each for each in depth]
    return StepTrace(
        *(request, number, tokens, [(node - 1) // 2 for node in range(nodes)], depth, scores),
        *([-0.25] * (nodes - 1) + [float("-inf")], path, emitted, [-0.1] * len(emitted), 20, 9),
        {"draft": 0.004, "verify": 0.011, "commit": 0.001},
    )


def result(*new: list[int]) -> Any:
    longest = max(map(len, new))
    sequences = torch.tensor([[1, 2, 3, *row, *[0] * (longest - len(row))] for row in new])
    rows = [RequestStats(new_tokens=len(row)) for row in new]
    return SimpleNamespace(sequences=sequences, stats=DecodeStats(tree="4-2-2", rows=rows))


def hostile_page() -> str:
    clip = SimpleNamespace(frames=torch.full((30, 3, 56, 80), 9, dtype=torch.uint8), fps=2)
    asked = Asked(
        question=HOSTILE[0],
        target=HOSTILE[1],
        clips=[HOSTILE[3], "second.mp4"],
        visual_tokens=[1234, 8],
        films=[film_of(clip)],
        speed=[Speed("our plain loop", 2.5, (2.25, 2.75)), Speed("generate", 3.0)],
        made=HOSTILE[2],
    )
    steps = [
        step(0, 0, [0, 1, 3], [90, 91, 92]),
        step(1, 0, [0, 2], [41, 42]),
        step(0, 1, [0, 1], [98, 99]),
        step(1, 1, [0], [43]),
        step(0, 2, [0, 2], [93]),
    ]
    first, second = [7, 90, 91, 92, 98, 99, 93], [40, 41, 42, 43]
    return trace_page(steps, result(first, second), Letters(), asked)


def test_no_text_leaves_the_data_and_all_of_it_comes_back() -> None:
    page = hostile_page()
    assert not re.search("[\ud800-\udfff]", page)
    assert len(re.findall("<script", page)) == len(re.findall("</script", page)) == 2
    before, text, behind = re.split(r'(?<=id="data">)(.*?)(?=</script>)', page, flags=re.S)
    assert "content=\"default-src 'none'; img-src data:" in before
    links = re.findall(r"""https?://[^"\s]+|url\(|@import|href=[^\s>]+""", before + behind)
    assert links == ['href="data:,"', "http://www.w3.org/2000/svg"]  # a name, never loaded
    data = json.loads(text)
    assert (data["question"], data["target"], data["made"]) == (*HOSTILE[:2], HOSTILE[2])
    assert [one["clip"] for one in data["requests"]] == [WELL_FORMED, "second.mp4"]
    assert data["pieces"]["92"] == HOSTILE[2] and data["pieces"]["7"] == " w7"
    steps = data["requests"][0]["steps"]
    assert [one[4] for one in steps] == [[0, 1, 3], [0, 1], [0, 2]]
    assert steps[0][2] == [0.0, -0.7, -0.7, -0.7] and steps[0][3][-1] is None
    assert steps[1][7] == ["", "é"]
    assert data["speed"][1] == {"against": "generate", "ratio": 3.0, "low": None, "high": None}


def test_what_a_page_is_made_of_is_packaged() -> None:
    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["sparrow_kernels"]
    package = root / "sparrow_kernels"
    packaged = {file for pattern in patterns for file in package.glob(pattern)}
    made_of = {*(package / "measuring" / "trace_page").glob("*.[!p]*")} - {*package.rglob("*.pyc")}
    assert len(made_of) == 4 and made_of <= packaged


def test_words_are_those_of_the_whole_text_however_long() -> None:
    tokens = [*range(1, 60), 98, 99, 0, *range(60, 80), 98]
    words = words_of(Letters(), tokens)
    assert "".join(words) == Letters().decode(tokens, skip_special_tokens=True)
    assert len(words) == len(tokens) and words[59:62] == ["", "é", ""] and words[3] == " w4"


def test_a_long_answer_of_large_trees_stays_below_two_megabytes() -> None:
    steps = [step(0, number, [0, 1, 3], [10, 11, 12], nodes=60) for number in range(500)]
    page = trace_page(steps, result([7, *[10, 11, 12] * 500]), Letters())
    assert 3e5 < len(page) < 2e6


def dom_of(page: Path, folder: Path) -> tuple[str, list[str]]:
    """The document once it has drawn itself, and what it has said on the console."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no {', '.join(BROWSERS)} on PATH")
    name, _, place = str(page).partition("#")
    command = [browser, *FLAGS, f"--user-data-dir={folder}", f"{Path(name).as_uri()}#{place}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def shown(part: str) -> str:
    return html.unescape(re.sub("<[^>]*>", "", part))


@pytest.mark.slow
def test_a_browser_draws_it_and_complains_of_nothing(tmp_path: Path) -> None:
    page = tmp_path / "trace.html"
    page.write_text(hostile_page(), encoding="utf-8")
    dom, console = dom_of(page, tmp_path / "browser")
    assert console == []
    assert len(re.findall('<g data-step="', dom)) == 3
    kinds = re.findall(r'<g class="node (\w+)">', dom)
    assert sorted(kinds) == ["accepted", "accepted", "bonus", "rejected", "root"]
    text = re.search(r'<p id="text".*?</p>', dom, re.S)
    assert text is not None
    words = [" w7", *HOSTILE[:3], "é", WELL_FORMED]
    assert shown(text[0]) == "".join(words)
    assert shown(re.search("<h1.*?</h1>", dom)[0]) == HOSTILE[0]  # type: ignore[index]
    assert "proposed 3 tokens. The target kept 2 of them and added" in shown(dom)
    assert "1 of 3" in shown(dom) and "2.25–2.75" in dom and "one run" in dom
    assert dom.count("<img ") == 8
    # Of another request another step, as a link names it; the text has ended within its path.
    page.rename(tmp_path / "other.html")
    dom, console = dom_of(Path(f"{tmp_path / 'other.html'}#1.3"), tmp_path / "browser")
    assert console == [] and "3 of 3" in dom and 'class="node bonus"' not in dom
