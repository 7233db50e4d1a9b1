"""Every system's draft in training is what it is in decoding: its rows, its levels, its text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from decoding_cases import requested
from torch import nn
from training_cases import Made, made

from sparrow_kernels import SparrowDecoder, load_draft
from sparrow_kernels.cli import main
from sparrow_kernels.decoding import first_committed
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.drafting.head import DraftHead
from sparrow_kernels.drafting.modes import MODES
from sparrow_kernels.drafting.state import DraftState
from sparrow_kernels.drafting.text_rows import TextRows
from sparrow_kernels.drafting.training_step import trained_outputs
from sparrow_kernels.embedded.draft_recipe import DraftRecipe
from sparrow_kernels.training import draft as training
from sparrow_kernels.training.data.embedded_clips import batch_states, rows_of
from sparrow_kernels.training.draft import train_draft
from sparrow_kernels.training.small_target import build_processor

PASSES = 3
ALL = [*MODES, "sparrow in training"]


def draft_of(target: Any, mode: str) -> SparrowDraft:
    settings = {"sees_clip": "middle"}
    if mode in MODES:
        settings = MODES[mode].settings_for(target.config.get_text_config().num_hidden_layers)
    if "layer_ids" in settings:
        settings["layer_ids"] = (0, 1, 2)  # the target is two layers deep
    torch.manual_seed(4)
    draft = SparrowDraft.for_target(target, initializer_range=0.1, **settings)
    if draft.config.step_shifts:
        draft.network.step_shift.data.normal_()
    return draft.eval()


def captions(of: Made, draft: SparrowDraft) -> tuple[TextRows, list[dict[str, Any]]]:
    """The captions' rows, and for each the prompt that ends where its caption begins."""
    target, batch, prepared = of
    rules = draft.config.row_rules()
    exchanges, _ = batch_states(target, batch, rules)
    rows = rows_of(exchanges, rules)
    prompts = []
    for clip, inputs in enumerate(prepared):
        end = int((inputs["input_ids"][0] == int(batch.prefix_ids[-1])).nonzero()[-1]) + 1
        own = batch.segments[clip] == 0
        emitted = int((batch.labels[clip, own] >= 0).nonzero()[0, 0]) + 1
        ids = torch.cat([inputs["input_ids"][0, :end], batch.text_ids[clip, own][:emitted]])
        whole = ids[None]
        kinds = (whole == target.config.video_token_id).int() * 2
        changed = {
            "input_ids": whole,
            "attention_mask": torch.ones_like(whole),
            "mm_token_type_ids": kinds,
        }
        prompts.append({**inputs, **changed})
    return rows, prompts


@pytest.mark.parametrize("mode", ALL)
@torch.no_grad()
def test_rows_and_levels_are_those_of_decoding(mode: str) -> None:
    """A prefill, the first emitted token, and a chain of grown ones, against training's passes."""
    target = made().target
    draft = draft_of(target, mode)
    rules, network = draft.config.row_rules(), draft.network
    rows, prompts = captions(made(), draft)
    embedding = target.get_input_embeddings()
    theta = draft.config.rope_theta
    trained, first = trained_outputs(network, embedding, rows, PASSES, theta, rules.sees_clip)
    for clip, inputs in enumerate(prompts):
        prefill, _, _ = requested(target, inputs).prefill(rules)
        (prompt,) = prefill.rows
        known = len(prompt.tokens)
        assert known == first, "the first row with a loss is that of the first emitted token"
        assert rows.tokens[clip, :known].equal(prompt.tokens)
        assert rows.positions is not None
        assert rows.positions[clip, :known].equal(prompt.positions)
        torch.testing.assert_close(rows.hidden[clip, :known], prompt.states, rtol=1e-3, atol=1e-3)
        state = DraftState(
            network,
            embedding,
            DraftHead(nn.Identity(), banned=torch.tensor([0])),
            theta,
            [prompt],
            8,
            tree_slots=PASSES,
            max_path=1,
            rules=rules,
        )
        emitted = rows.tokens[clip : clip + 1, known : known + PASSES]
        begun = first_committed(emitted[:, 0], prefill.states, max_path=1)
        output = state.refresh(*begun)
        for depth in range(PASSES):
            if depth:
                bits = torch.tensor([[[(1 << depth) - 1]]])
                token = emitted[:, depth, None]
                output = state.grow(token, output[:, None], depth, depth - 1, bits)[:, 0]
            torch.testing.assert_close(output[0], trained[depth][clip, depth], rtol=2e-3, atol=2e-3)


def test_the_command_offers_every_mode(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "draft", "--mode", "none of them"]) == 2
    offered = capsys.readouterr().err.partition("choose from ")[2].partition(")")[0]
    assert offered.replace("'", "").split(", ") == list(MODES)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_trains_and_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Two steps change every weight that has a part in it; the draft is saved blind to the clip."""
    target, batch, prepared = made()
    monkeypatch.setattr(training, "BatchMaker", lambda *_: lambda *_: batch)
    settings = MODES[mode].settings_for(2)
    if "layer_ids" in settings:
        monkeypatch.setitem(
            MODES, mode, replace(MODES[mode], settings={**settings, "layer_ids": (0, 1, 2)})
        )
        monkeypatch.setattr(type(MODES[mode]), "settings_for", lambda self, _: dict(self.settings))
    recipe = replace(DraftRecipe(), steps=2, warmup=1)
    folder = train_draft(
        target, build_processor(), tmp_path, recipe=recipe, features=torch.empty(0), mode=mode
    )
    draft = load_draft(folder, target)
    assert draft.config.sees_clip == "nothing"
    torch.manual_seed(0)
    fresh = SparrowDraft.for_target(target, **MODES[mode].settings_for(2)).half().float()
    ends = ("adaptor.key.bias",)  # no score depends on it
    same = [
        name
        for name, weight in draft.named_parameters()
        if torch.equal(weight, fresh.get_parameter(name)) and not name.endswith(ends)
    ]
    assert same == []
    for sight in ("nothing", "trained"):
        seeing = load_draft(folder, target, sees_clip=sight)
        settings = {"max_new_tokens": 8, "do_sample": False}
        ours = SparrowDecoder(target, seeing).generate(**prepared[0], **settings)
        assert torch.equal(ours.sequences, target.generate(**prepared[0], **settings))


def test_a_checkpoint_of_another_mode_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "BatchMaker", lambda *_: lambda *_: made().batch)
    arguments: dict[str, Any] = {
        "recipe": replace(DraftRecipe(), steps=1),
        "features": torch.empty(0),
    }
    train_draft(made().target, build_processor(), tmp_path, mode="msd", **arguments)
    with pytest.raises(ValueError, match="got one with mode msd and not hivis"):
        train_draft(made().target, build_processor(), tmp_path, mode="hivis", **arguments)
