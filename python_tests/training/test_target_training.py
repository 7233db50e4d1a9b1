"""The training loop: exchanges are kept apart, and a run that was cut goes on as if it were not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sparrow_kernels.embedded.captions import content_words
from sparrow_kernels.embedded.recipe import Length
from sparrow_kernels.embedded.worlds import EASY, HARDER, World, world_of

pytest.importorskip("transformers")
from sparrow_kernels.models.pair import load_target
from sparrow_kernels.training.small_target import HIDDEN, build_target, build_tokenizer
from sparrow_kernels.training.target import run as target_run
from sparrow_kernels.training.target.language import (
    BatchMaker,
    ClipBatch,
    _hidden,
    language_loss,
)
from sparrow_kernels.training.target.progress import Progress


@pytest.fixture(scope="module", params=[EASY, HARDER], ids=lambda world: world.name)
def world(request) -> World:
    return request.param


@pytest.fixture(scope="module")
def features(world):
    specimens = (world.scenes + 5) * world.views
    return torch.randn(specimens, 4, HIDDEN, generator=torch.Generator().manual_seed(0)).half()


@pytest.fixture(scope="module")
def maker(world, features):
    return BatchMaker(build_tokenizer(world).backend_tokenizer, features, 0, world)


@pytest.fixture(scope="module")
def target(world):
    return build_target(len(build_tokenizer(world)), layers=2)


def make_batch(maker: BatchMaker, crowd: float = 1.0) -> ClipBatch:
    scripts = [maker.world.random_script(2, 6, 3, seed) for seed in (1, 2)]
    kinds = ("describe", "color", "count")
    return maker._batch(scripts, kinds, crowd, np.random.default_rng(0))


def test_batch_of_a_step_is_seeded(maker):
    stage = maker.world.recipe.language[0]
    first, again, other = maker(stage, 3), maker(stage, 3), maker(stage, 4)
    assert torch.equal(first.text_ids, again.text_ids)
    assert torch.equal(first.visual, again.visual)
    assert first.visual.shape != other.visual.shape or not torch.equal(first.visual, other.visual)


@pytest.mark.parametrize("crowd", [1.0, 5.0])
@torch.no_grad()
def test_an_exchange_is_answered_as_if_it_were_alone(maker, target, crowd):
    batch = make_batch(maker, crowd)
    together = _hidden(target, batch)[0]
    for row in range(2):
        for number in range(3):
            own = batch.segments[row] == number
            alone = replace(
                batch,
                visual=batch.visual[row : row + 1],
                text_ids=batch.text_ids[row : row + 1, own],
                text_positions=batch.text_positions[row : row + 1, own],
                segments=batch.segments[row : row + 1, own],
            )
            torch.testing.assert_close(
                _hidden(target, alone)[0][0], together[row, own], atol=1e-4, rtol=1e-4
            )


@torch.no_grad()
def test_two_passes_equal_the_models_own_forward(maker, target):
    batch = make_batch(maker)
    own = batch.segments[0] == 1
    ids = torch.cat([batch.prefix_ids, batch.text_ids[0, own]])[None]
    embedded = target.model.language_model.embed_tokens(ids)
    embedded[0, ids[0] == target.config.video_token_id] = batch.visual[0]
    text = batch.text_positions[0, own].expand(3, -1)
    whole = target.model.language_model(
        inputs_embeds=embedded,
        position_ids=torch.cat([batch.prefix_positions, text], dim=1)[:, None],
    ).last_hidden_state
    expected = whole[0, len(batch.prefix_ids) :]
    torch.testing.assert_close(_hidden(target, batch)[0][0, own], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_crowd_draws_attention_to_the_clip(maker, target):
    quiet, crowded = (_hidden(target, make_batch(maker, crowd))[0] for crowd in (1.0, 1e6))
    assert not torch.allclose(quiet, crowded, atol=1e-3)


def test_labels_are_the_answers(maker):
    batch = make_batch(maker)
    tokenizer = build_tokenizer(maker.world)
    said = batch.labels[0][(batch.labels[0] >= 0) & (batch.segments[0] == 2)]
    subject = {"easy": "The video", "harder": "It"}[maker.world.name]
    assert tokenizer.decode(said) == f"{subject} has three parts.<|im_end|>"
    scripts = [maker.world.random_script(2, 6, 3, seed) for seed in (1, 2)]
    expected = [
        word
        for script in scripts
        for word in content_words(maker.world.description(script), maker.world.content_words)
    ]
    assert len(expected) >= 2 * 3 * 6  # clips, parts, attributes
    assert int(batch.caption.sum()) == len(expected)


def test_loss_falls_and_shares_are_shares(maker):
    torch.manual_seed(0)
    model = build_target(len(build_tokenizer(maker.world)), layers=1)
    hint = 0.0 if maker.world is EASY else 0.5
    batch = make_batch(maker)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(8):
        loss, shares = language_loss(model, batch, hint)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        asked = shares[: 2 if maker.world is EASY else 3]
        assert ((asked >= 0) & (asked <= 1)).all()
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.slow
def test_a_cut_run_goes_on_as_if_it_had_not_been_cut(tmp_path, features, monkeypatch, world):
    stage = replace(
        world.recipe.language[0], steps=4, enough=None, lengths=(Length(1, (2, 3), 1.0),)
    )
    recipe = replace(world.recipe, layers=1, language=(stage,))
    monkeypatch.setattr(target_run, "_SECONDS_BETWEEN_CHECKPOINTS", -1.0)

    def prepare(name):
        folder = tmp_path / name
        folder.mkdir()
        torch.save(features, folder / "features.pt")
        training = target_run.TargetTraining(folder, recipe, 0, world)
        training.progress = Progress("vision")
        training._finish_stage(keep_optimizer=False)
        return folder

    def weights(folder):
        state = torch.load(folder / "training.pt", weights_only=True)
        assert state["progress"]["stage"] == "done"
        return state["model"]

    straight = prepare("straight")
    target_run.train_target(straight, recipe=recipe, world=world)

    cut = prepare("cut")
    update = target_run.TargetTraining._update
    calls = []

    def update_twice(self, loss, learning_rate):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(learning_rate)
        update(self, loss, learning_rate)

    monkeypatch.setattr(target_run.TargetTraining, "_update", update_twice)
    with pytest.raises(KeyboardInterrupt):
        target_run.train_target(cut, recipe=recipe, world=world)
    monkeypatch.setattr(target_run.TargetTraining, "_update", update)
    target_run.train_target(cut, recipe=recipe, world=world)

    expected, found = weights(straight), weights(cut)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5)
    assert not list(cut.glob("*.new"))
    assert world_of(load_target(cut)[0]) is world
