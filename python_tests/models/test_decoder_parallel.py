"""A target split over two processes by tensor parallelism emits the text of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from family_cases import prompts, tiny
from fork_server import forked, group
from parallel_run import (
    BATCHES,
    CASES,
    FAMILIES,
    GREEDY,
    NEW_TOKENS,
    PLAINEST,
    PROCESSES,
    cases_of,
    decoded,
    work,
)


def run_group(folder: Path) -> None:
    """`work`, once a rank; all families in one go."""
    processes = [forked(work, folder, each) for each in group(PROCESSES)]
    try:
        for process in processes:
            process.join(timeout=300)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
def test_two_processes_emit_the_text_of_one(tmp_path: Path) -> None:
    for name in FAMILIES:
        tiny(name).target.save_pretrained(tmp_path / name)
    run_group(tmp_path)
    for name in FAMILIES:
        ranks = [torch.load(tmp_path / f"{name}-{rank}.pt") for rank in range(PROCESSES)]
        assert_like_one_process(name, ranks)


def assert_like_one_process(name: str, ranks: list[Any]) -> None:
    target = tiny(name).target
    whole = target.config.get_text_config().num_key_value_heads
    assert [found["heads"] for found in ranks] == [whole // PROCESSES] * PROCESSES
    expected = {case: decoded(target, name, 7, case).sequences for case in cases_of(name)}
    expected["clocks that differ"] = expected[PLAINEST][:, : -NEW_TOKENS + 5]
    for case in ("drafts that differ", "trees that differ", "a draft of few words"):
        expected[case] = expected[PLAINEST]
    for case, text in expected.items():
        for found in ranks:
            assert torch.equal(found["texts"][case], text), (name, case)
    for case in expected.keys() & CASES.keys():
        batch, _, settings = CASES[case]
        if settings is GREEDY:
            inputs = prompts(tiny(name).processor, *BATCHES[batch])
            plain = target.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
            assert torch.equal(expected[case], plain), (name, case)
