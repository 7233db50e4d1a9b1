"""The examples run and say what they should."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_verify_a_tree(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "verify_a_tree.py"))
    out = capsys.readouterr().out
    assert "emitted: [[21, 32, 77, -1], [41, 42, 99, -1]]" in out
    assert "committed slots: [13, 23]" in out


@pytest.mark.slow
def test_describe_a_clip(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "describe_a_clip.py"))
    out = capsys.readouterr().out
    assert out.startswith("This is a video made of")
    assert "tokens a target call" in out


# What each example of the ops in somebody's code says once it has compared with that code alone.
SAYS = {
    "hand_written_decoder": ["the same text: True", "target calls: 5 instead of 23"],
    "static_cache": ["path: [[0, 2, -1]] committed slots: [6]", "plain decoding does: True"],
    "attention_interface": ["a tree in one call: (1, 5, 64)", "as its paths one by one: True"],
    "compiled_step": [
        "the same tokens: True and lengths: True",
        "the same caches: True",
        "1 graph for 3 steps",
    ],
    "flashinfer_pages": [
        "the two parts as one call: True",
        "emitted: [[1, 3, 5, 77], [2, 99, -1, -1]]",
        "rows moved: True",
        "committed pages: [7, 2, 9, 4, 0, 5] last: [1, 3]",
    ],
    "tensorrt_llm_medusa": [
        "packed mask: [1, 3, 5, 9, 19, 35, 69, 147]",
        "the same attention: True",
        "accepted lengths: [4, 2] best paths: [0, 2]",
        "as the engine decides: True",
        "the cache as the engine would move it: True",
    ],
    "vllm_blocks": ["the same text: True", "steps: 20 instead of 39"],
    "dynamic_cache": ["the same text: True", "target calls: 11 instead of 31"],
    "exported_program": [
        "sparrow.build_tree.default, sparrow.topk_logprobs.default, sparrow.tree_attention.default",
        "5 nodes, 16 slots: the same result: True",
        "9 nodes, 40 slots: the same result: True",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAYS)
def test_the_ops_in_other_code(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    runpy.run_path(str(EXAMPLES / f"{name}.py"))
    out = capsys.readouterr().out
    assert [line for line in SAYS[name] if line not in out] == []


def test_every_example_is_run_and_listed() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == set(SAYS) | {"verify_a_tree", "describe_a_clip"}
    readme = (EXAMPLES.parent / "README.md").read_text()
    assert [name for name in names if f"examples/{name}.py" not in readme] == []
