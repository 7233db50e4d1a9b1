"""The harder world: order can be read from the frames alone, and every word said from the clip."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from sparrow_kernels.embedded.captions import Exchange
from sparrow_kernels.embedded.clips import TOKENS_PER_TILE, ClipScript, Part
from sparrow_kernels.embedded.harder.captions import QUESTIONS, answer, ask, spoken_parts
from sparrow_kernels.embedded.harder.clips import make_clip, random_script, render
from sparrow_kernels.embedded.harder.sentences import description
from sparrow_kernels.embedded.harder.world import MAX_PARTS, draw_distractors
from sparrow_kernels.embedded.specimens import draw_harder_pool, harder_scenes
from sparrow_kernels.embedded.world import BACKGROUND, COLOR, TILE
from sparrow_kernels.embedded.worlds import EASY, HARDER, world_of

pytest.importorskip("transformers")
from sparrow_kernels.training.small_target import VIDEO, build_processor, build_tokenizer
from sparrow_kernels.training.small_target import clip_inputs as inputs_of
from sparrow_kernels.training.target.clip_features import clip_features
from sparrow_kernels.training.target.hint import NONE, part_labels

RED_CIRCLE_THEN_PINK_RING = ClipScript(
    seed=5,
    tiles=2,
    parts=(Part((1, 0, 0, 0, 0, 0), seconds=2), Part((0, 7, 4, 2, 2, 3), seconds=3)),
)


def test_clips_are_seeded_and_meet_their_budget():
    script = make_clip(500, seed=3)
    assert make_clip(500, seed=3) == script != make_clip(500, seed=4)
    assert np.array_equal(render(script), render(script))
    for budget in (64, 500, 2048, 8192, 24000):
        script = make_clip(budget, seed=1)
        assert abs(script.visual_tokens - budget) <= TOKENS_PER_TILE * script.tiles**2 / 2


def test_the_processor_keeps_the_largest_frames():
    script = random_script(HARDER.widest, 5, 4, seed=2)
    inputs = inputs_of(build_processor(HARDER), render(script), 2.0, "Describe this video.")
    assert (inputs["input_ids"] == VIDEO).sum() == script.visual_tokens


def test_every_cut_shows():
    for seed in range(200):
        parts = [part.attributes for part in random_script(1, 20, MAX_PARTS, seed).parts]
        backgrounds = [attributes[BACKGROUND] for attributes in parts]
        assert all(a != b for a, b in zip(backgrounds, backgrounds[1:], strict=False))
        assert len({attributes[COLOR] for attributes in parts}) == MAX_PARTS


def test_nothing_drawn_tells_the_time():
    """The same part at another place of a clip is drawn with the same pixels."""
    first, second = (Part((1, 0, 0, 4, b, 2), seconds=2) for b in (0, 2))
    ahead, behind = (
        render(ClipScript(1, 1, parts)) for parts in ((first, second), (second, first))
    )
    nearest = [
        min(np.abs(frame.astype(int) - other).mean() for other in behind[4:]) for frame in ahead[:4]
    ]
    assert max(nearest) < 15.0  # the jitter of a pixel or two


def test_two_frames_of_any_second_show_the_direction():
    steps = {0: (0, 0), 2: (-3, 0), 3: (3, 0), 4: (0, -3), 5: (0, 3)}
    for action, step in steps.items():
        frames = render(ClipScript(1, 1, (Part((1, 0, 0, 4, 0, action), seconds=4),))).max(-1)
        centers = np.array([np.argwhere(frame > 0).mean(0)[::-1] for frame in frames])
        moved = (centers[1::2] - centers[::2]).round().astype(int)
        assert (moved == step).all(), action


def test_the_pool_holds_every_scene_in_both_phases():
    labels = np.array([(1, 0, 0, 4, 0, 2, 0), (0, 7, 4, 2, 2, 0, 0)])
    drawn = draw_harder_pool(labels, np.random.default_rng(0))
    assert drawn.shape == (2, 2 * HARDER.views, TILE, TILE, 3)
    lit = (drawn[0].max(-1) > 0).reshape(2, 4, TILE, TILE)
    centers = np.array([[np.argwhere(frame).mean(0)[1] for frame in turn] for turn in lit])
    assert (np.diff(centers)[:, 0] < 0).all() and (np.diff(centers)[:, 2] < 0).all()
    assert abs(centers[0] - centers[1]).max() <= 2.5  # again from its start, another jitter


def test_distractors_are_gray_and_spare_one_tile():
    drawn = draw_distractors(40, 4, np.random.default_rng(0))
    assert (drawn == drawn[..., :1]).all()
    levels = [len(np.unique(tile)) for tile in drawn[:, 0, :, :, 0]]
    assert {1, 2} < set(levels) and max(levels) > 20

    script = random_script(tiles=4, seconds=9, parts=3, seed=11)
    frames = [
        render(ClipScript(script.seed, 4, script.parts, distractor_rate=rate))[0]
        for rate in (0.0, 1.0)
    ]
    differing = (frames[0] != frames[1]).any(-1).reshape(4, TILE, 4, TILE).any((1, 3))
    assert differing.sum() == 15


def test_caption_says_what_is_shown():
    clip = RED_CIRCLE_THEN_PINK_RING
    assert description(clip) == (
        "The video shows this. There is a large red circle resting at the left over a black "
        "background. At the top, a small pink ring is moving right while behind it lies a white "
        "background. Then the video ends."
    )
    assert answer("brief", clip) == "We see a red circle, then a pink ring."
    assert answer("list", clip) == (
        "one: red circle, black background, resting; two: pink ring, white background, "
        "moving right."
    )
    assert answer("color", clip, 1) == "It is pink."
    assert answer("shape", clip, 0) == "It is a circle."
    assert answer("action", clip, 1) == "It is moving right."
    assert answer("place", clip, 1) == "It is at the top."
    assert answer("count", clip) == "It has two parts."
    with pytest.raises(ValueError, match="kind must be one of"):
        answer("smell", clip)


def test_texts_are_one_token_a_word():
    tokenizer = build_tokenizer(HARDER)
    rng = np.random.default_rng(0)
    for seed in range(60):
        script = make_clip(500, seed)
        for kind in QUESTIONS:
            exchange = ask(kind, script, rng)
            for text in (exchange.question, exchange.question.lower(), exchange.answer):
                ids = tokenizer(text).input_ids
                assert tokenizer.decode(ids) == text
                assert len(ids) == len(re.sub(r"([.,?:;])", r" \1", text).split())


def test_features_and_the_hints_labels_follow_the_visual_tokens():
    script, views = RED_CIRCLE_THEN_PINK_RING, HARDER.views
    features = torch.zeros((HARDER.scenes + 1) * views, 4, 3)
    for part, scene in enumerate(harder_scenes(script)):
        own = slice(scene * views, (scene + 1) * views)
        features[own, :, 0] = part + 1
        features[own, :, 1] = torch.arange(4)
        features[own, :, 2] = torch.arange(views)[:, None] % 2
    tokens = clip_features(script, features, np.random.default_rng(0), HARDER)
    grid = tokens.view(script.seconds, 4, 4, 3)
    assert grid[:, 0, 0, 0].tolist() == [1, 1, 2, 2, 2]
    assert grid[:, 0, 0, 2].tolist() == [0, 1, 0, 1, 0]  # a motion takes two seconds
    assert grid[0, :, :, 1].tolist() == [[0, 1, 0, 1], [2, 3, 2, 3]] * 2
    labels = part_labels(HARDER, script).view(5, 16)
    assert labels[:, 0].tolist() == [0, 0, 1, 1, 1]

    hidden = ClipScript(5, 2, script.parts, distractor_rate=1.0)
    labels = part_labels(HARDER, hidden)
    assert ((labels.view(5, 16) != NONE).sum(1) == 4).all()
    features[: HARDER.scenes * views] = 1
    features[HARDER.scenes * views :] = 0
    tokens = clip_features(hidden, features, np.random.default_rng(0), HARDER)
    assert torch.equal(tokens[:, 0] == 1, labels != NONE)


def test_captions_speak_of_parts_in_their_order():
    tokenizer = build_tokenizer(HARDER)
    for kind, start in (("describe", "At"), ("brief", "then"), ("list", "two")):
        tokens = tokenizer.tokenize(answer(kind, RED_CIRCLE_THEN_PINK_RING))
        said = spoken_parts(Exchange(kind, "", ""), tokens, 2)
        assert len(said) == len(tokens) + 1
        assert tokens[said.index(1)].lstrip("Ġ") == start
    assert spoken_parts(Exchange("color", "", "", 1), ["It"], 2) == [1, 1]
    assert spoken_parts(Exchange("count", "", ""), ["It"], 2) == [None, None]


def test_a_target_names_its_world():
    class Config:
        embedded_world = "harder"

    class Target:
        config = Config

    assert world_of(Target) is HARDER
    del Config.embedded_world
    assert world_of(Target) is EASY
