"""The rows a draft is trained on are the rows it is given while decoding, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from decoding_cases import requested
from dialogue_cases import clip, said, write_clip, write_lines
from family_cases import FAMILIES, tiny
from torch import Tensor

from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.drafting.modes import MODES
from sparrow_kernels.drafting.rows import RowRules
from sparrow_kernels.models.sequence import SequenceReader
from sparrow_kernels.training.data.dialogues import read_dialogues
from sparrow_kernels.training.data.encoding import Encoder
from sparrow_kernels.training.data.rows import response_slots, text_rows, wanted_layers

SYSTEMS = [*MODES, "sparrow's bridge"]


def rules_of(target: Any, system: str) -> RowRules:
    """How a draft of this system reads, as it was trained to."""
    settings: dict[str, Any] = {"sees_clip": "middle"}
    if system in MODES:
        settings = MODES[system].settings_for(target.config.get_text_config().num_hidden_layers)
    if "layer_ids" in settings:
        settings["layer_ids"] = (0, 1, 3)  # the target is three layers deep
    return SparrowDraft.for_target(target, **settings).config.row_rules()


def same(ours: Tensor | None, theirs: Tensor | None) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    return torch.equal(ours[0], theirs)


@pytest.mark.parametrize("positions", ["compact", pytest.param("sequence", marks=pytest.mark.slow)])
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_rows_are_those_of_a_prefill(
    tmp_path: Path, family: str, system: str, positions: str
) -> None:
    """The same text, once as a training example and once as a prompt: two clips, two answers."""
    target, processor = tiny(family)
    write_clip(tmp_path)
    messages = [
        said("user", clip(), "then", clip(), "what?"),
        said("assistant", "noise"),
        said("user", "sure?"),
        said("assistant", "quite sure"),
    ]
    (dialogue,) = read_dialogues(write_lines(tmp_path / "d.jsonl", [{"messages": messages}]))
    encoded = Encoder(target, processor)(dialogue)
    rules = replace(rules_of(target, system), positions=positions)
    (states,) = SequenceReader(target, wanted_layers(rules))(encoded.inputs)
    rows = text_rows(states, encoded.response, rules)
    (prompt,) = requested(target, encoded.inputs).prefill(rules)[0].rows
    assert same(rows.tokens, prompt.tokens)
    assert same(rows.hidden, prompt.states)
    assert same(rows.positions, prompt.positions)
    assert same(rows.embeddings, prompt.embeddings)
    assert same(rows.clip, prompt.clip)
    assert same(rows.clip_positions, prompt.clip_positions)
    assert same(rows.runs_before, prompt.runs_before)
    assert rows.clip_runs == ((prompt.clip_runs,) if rules.has_clip_rows else ())
    # What a row should put out is what the next row reads, where the top state is what is read.
    roots = rows.response[0].nonzero()[:, 0]
    assert len(roots) == len("noise") - 1 + len("quite sure") - 1
    if rules.layer_ids is None:
        assert rows.state[0, roots].equal(rows.hidden[0, roots + 1])


def test_roots_are_emitted_and_may_be_followed() -> None:
    ids = torch.tensor([5, 6, 7, 9, 5, 6, 9])
    emitted = torch.tensor([0, 1, 1, 1, 0, 1, 0], dtype=torch.bool)
    found = response_slots(ids, emitted, torch.tensor([9]))
    # 6 may be followed by 7; 7 is followed by a stop id; the second 6 by what was not emitted.
    assert found.tolist() == [False, True, False, False, False, False, False]
