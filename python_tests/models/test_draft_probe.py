"""Settings that a file gets wrong are named, and nothing is named where nothing is to be told."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from draft_files import DraftFiles, write
from foreign_writer import EAGLE3, SETTINGS, as_format
from trained_drafts import asked, embedded, trained

from sparrow_kernels import load_draft
from sparrow_kernels.cli.main import main
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.models.drafts.probe import Probe, probe
from sparrow_kernels.models.drafts.texts import written_by

NAME = "angelslim"
LAYERS = (1, 4, 7)
"""Of 8. States of neighbouring layers are alike in the middle of a target as small."""
BASE = 1e6

pytestmark = pytest.mark.slow  # a draft that knows its settings takes a while to train


@cache
def files() -> DraftFiles:
    """A trained draft, said as it was trained."""
    settings = {**SETTINGS[NAME], "layer_ids": LAYERS, "rope_theta": BASE}
    draft = trained(steps=90, passes=3, texts=True, **settings)
    said = as_format(draft, NAME, embedded()[0].get_input_embeddings().weight)
    return replace(said, config={**said.config, "aux_hidden_states_layer_ids": [0, 3, 6]})


@cache
def text() -> torch.Tensor:
    return written_by(embedded()[0], asked())


def planted(**wrong: Any) -> DraftFiles:
    """The same with something in its configuration that it was not trained with."""
    config = json.loads(json.dumps(files().config))
    return replace(files(), config={**config, **wrong})


def swapped() -> DraftFiles:
    """The same by a producer that joins the state and the embedding the other way round."""
    tensors = dict(files().tensors)
    for each in "qkv":
        name = f"midlayer.self_attn.{each}_proj.weight"
        tensors[name] = tensors[name].roll(tensors[name].shape[1] // 2, dims=1)
    return replace(files(), tensors=tensors)


def probed(said: DraftFiles, folder: Path, **asked_for: Any) -> Probe:
    draft = load_draft(write(said, folder), embedded()[0], probe=False, **asked_for)
    return probe(draft, embedded()[0], text(), len(asked()))


def test_a_draft_that_is_read_right_is_left_alone(tmp_path: Path) -> None:
    found = probed(files(), tmp_path)
    assert found.knows and found.agreement > 0.6 and found.better == {}
    assert not any(one.is_behind for one in found)
    for name in ("layer_ids", "state_first", "feeds_normed", "norm_before_residual"):
        assert found.verdict(name) == "as loaded", name


@pytest.mark.parametrize(
    ("wrong", "said", "right"),
    [
        ({"aux_hidden_states_layer_ids": [1, 4, 7]}, {}, {"layer_ids": LAYERS}),
        ({}, {"layer_ids": (0, 3, 6)}, {"layer_ids": LAYERS}),
        ({"rope_theta": 1e4}, {}, {"rope_theta": BASE}),
        ({"norm_before_residual": True}, {}, {"norm_before_residual": False}),
        ({}, {"settings": {"feeds_normed": True}}, {"feeds_normed": False}),
    ],
    ids=["layers one up", "layers one down", "rope base", "normed residual", "normed feedback"],
)
def test_a_planted_mistake_is_named(
    tmp_path: Path, wrong: dict[str, Any], said: dict[str, Any], right: dict[str, Any]
) -> None:
    """By the file, or by the caller."""
    assert probed(planted(**wrong), tmp_path, **said).better == right
    (name,) = right
    fixed = right if name in ("layer_ids", "rope_theta") else {"settings": right}
    assert probed(planted(**wrong), tmp_path, **fixed).better == {}


def test_a_swapped_concatenation_is_named(tmp_path: Path) -> None:
    assert probed(swapped(), tmp_path).better == {"state_first": True}
    assert probed(swapped(), tmp_path, settings={"state_first": True}).better == {}


def test_two_mistakes_at_once_are_named(tmp_path: Path) -> None:
    wrong = planted(rope_theta=1e4, norm_before_residual=True)
    assert probed(wrong, tmp_path).better == {"rope_theta": BASE, "norm_before_residual": False}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("settings", [EAGLE3, {}], ids=["eagle3", "sparrow"])
def test_random_weights_say_nothing(settings: dict[str, Any], seed: int) -> None:
    torch.manual_seed(seed)
    draft = SparrowDraft.for_target(embedded()[0], initializer_range=0.2, **settings)
    found = probe(draft, embedded()[0], text(), len(asked()))
    assert not found.knows and found.better == {}
    assert {found.verdict(one.name) for one in found} == {"none"}


def test_texts_are_the_target_s_own_whatever_it_is_set_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight times the same text would weigh as eight."""
    target = embedded()[0]
    expected = text()
    settings = {"temperature": 1e-6, "top_k": 1, "top_p": 0.001, "return_dict_in_generate": True}
    for name, value in settings.items():
        monkeypatch.setattr(target.generation_config, name, value)
    found = written_by(target, asked())
    assert torch.equal(found, expected)
    assert len(found.unique(dim=0)) == len(found)


def test_advice_that_was_followed_is_not_given_again(tmp_path: Path) -> None:
    found = probed(files(), tmp_path, settings={"state_first": True})
    assert found.better == {"state_first": False}


def test_loading_warns_of_what_is_far_behind(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="state_first no it agrees .* sparrow draft probe"):
        load_draft(write(swapped(), tmp_path), embedded()[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_draft(write(files(), tmp_path), embedded()[0])


def test_the_command_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write(planted(aux_hidden_states_layer_ids=[1, 4, 7]), tmp_path))
    assert main(["draft", "probe", folder]) == 0
    shown = capsys.readouterr().out
    assert "another value than the one loaded (*) stands out for layer_ids" in shown
    assert "load_draft(..., layer_ids=(1, 4, 7))" in shown
    assert main(["draft", "probe", folder, "--layer-ids", "1", "4", "7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["better"] == {}
