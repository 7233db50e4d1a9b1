"""The public tuples: help of them, and loading them. How far the scoped switches reach."""

from __future__ import annotations

import pydoc
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import sparrow_kernels as sk
from sparrow_kernels.ops import env

TUPLES = (sk.TreeLayout, sk.Acceptance, sk.AnchorIndex)


@pytest.mark.parametrize("kind", TUPLES)
def test_help_shows_the_shape_of_each_field(kind: type) -> None:
    text = pydoc.plain(pydoc.render_doc(kind))
    for field in kind._fields:
        assert f"{field}: `[B" in text


@pytest.mark.slow
def test_a_saved_layout_loads_as_weights(tmp_path: Path) -> None:
    layout = sk.build_tree(torch.tensor([[-1, 0, 0]], dtype=torch.int32))
    accepted = sk.accept_tree(torch.zeros(1, 3).long(), layout, torch.zeros(1, 3).long(), 2)
    anchors = sk.anchor_index(torch.ones(1, 4, dtype=torch.bool))
    path = tmp_path / "tuples.pt"
    torch.save([layout, accepted, anchors], path)
    program = f"""
import torch
from sparrow_kernels import TreeLayout
layout, accepted, anchors = torch.load({str(path)!r}, weights_only=True)
assert isinstance(layout, TreeLayout)
print(layout.depth.tolist(), accepted.path.tolist(), anchors.slots.tolist())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    expected = f"{layout.depth.tolist()} {accepted.path.tolist()} {anchors.slots.tolist()}"
    assert done.stdout.strip() == expected, done.stderr


def test_the_switches_hold_in_their_own_thread() -> None:
    seen = {}

    def look() -> None:
        seen["backend"], seen["checks"] = env.current_backend(), env.values_are_checked("cpu")

    usual = env.current_backend()
    with sk.backend("reference"), sk.checks(False):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert env.current_backend() == "reference" and not env.values_are_checked("cpu")
    assert seen == {"backend": usual, "checks": True}
    for switch in (sk.backend, sk.checks):
        assert "this thread" in pydoc.plain(pydoc.render_doc(switch))
