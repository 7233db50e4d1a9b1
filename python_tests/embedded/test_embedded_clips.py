"""The embedded clips: seeded, honest about their size, and seen by the target as they are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparrow_kernels.embedded.captions import (
    QUESTIONS,
    answer,
    ask,
    content_accuracy,
    content_words,
    description,
)
from sparrow_kernels.embedded.clips import (
    TOKENS_PER_TILE,
    ClipScript,
    Part,
    make_clip,
    random_script,
    read_mp4,
    render,
    split_seconds,
    write_mp4,
)
from sparrow_kernels.embedded.specimens import easy_scenes
from sparrow_kernels.embedded.world import MAX_PARTS, TILE
from sparrow_kernels.embedded.worlds import EASY

pytest.importorskip("transformers")
from sparrow_kernels.training.small_target import (
    VIDEO,
    build_processor,
    build_target,
    build_tokenizer,
    clip_inputs,
)
from sparrow_kernels.training.target.clip_features import clip_features
from sparrow_kernels.training.target.language import prefix_positions
from sparrow_kernels.training.target.vision import (
    patchify_tiles,
    tile_features,
)

RED_CIRCLE_THEN_PINK_RING = ClipScript(
    seed=5,
    tiles=2,
    parts=(Part((1, 0, 0, 0, 0, 0), seconds=2), Part((0, 7, 4, 2, 2, 1), seconds=3)),
)


@pytest.fixture(scope="module")
def processor():
    return build_processor()


@pytest.fixture(scope="module")
def target(processor):
    return build_target(len(processor.tokenizer), layers=2).eval()


def test_rendering_is_seeded():
    script = make_clip(500, seed=3)
    assert make_clip(500, seed=3) == script
    assert np.array_equal(render(script), render(script))
    assert make_clip(500, seed=4) != script
    assert not np.array_equal(render(script), render(make_clip(500, seed=4)))


@pytest.mark.parametrize("budget", [64, 300, 500, 1024, 2048, 4096, 8192, 24000])
def test_budget_is_met_within_a_second_of_clip(budget):
    script = make_clip(budget, seed=1)
    assert abs(script.visual_tokens - budget) <= TOKENS_PER_TILE * script.tiles**2 / 2


@pytest.mark.parametrize("budget", [64, 500, 2048])
def test_processor_keeps_every_frame_and_counts_whole_seconds(processor, budget):
    script = make_clip(budget, seed=2)
    frames = render(script)
    inputs = clip_inputs(processor, frames, 2.0, "Describe this video.")
    assert (inputs["input_ids"] == VIDEO).sum() == script.visual_tokens
    edge = TILE * script.tiles // 14
    assert inputs["video_grid_thw"].tolist() == [[script.seconds, edge, edge]]
    assert inputs["second_per_grid_ts"].tolist() == [1.0]
    first = inputs["pixel_values_videos"][0].view(3, 2, 14, 14)
    corner = torch.from_numpy(frames[:2, :14, :14]).permute(3, 0, 1, 2)
    torch.testing.assert_close(first, corner / 127.5 - 1.0)


@pytest.mark.slow
def test_large_video_stays_within_the_context(processor):
    frames = np.zeros((300, 360, 480, 3), np.uint8)
    inputs = clip_inputs(processor, frames, 2.0, "Describe this video.")
    assert inputs["input_ids"].shape[1] < 29000


def test_image_is_processed(processor):
    text = "<|vision_start|><|image_pad|><|vision_end|>What is this?"
    image = np.zeros((112, 112, 3), np.uint8)
    inputs = processor(text=[text], images=[image], return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[1, 8, 8]]


def test_mp4_gives_the_frames_back(tmp_path):
    frames = render(RED_CIRCLE_THEN_PINK_RING)
    write_mp4(tmp_path / "clip.mp4", frames)
    decoded, fps = read_mp4(tmp_path / "clip.mp4")
    assert fps == 2.0
    assert decoded.shape == frames.shape
    # 4:2:0 chroma smears the edges of coloured objects; flat areas stay.
    error = np.abs(decoded.astype(int) - frames)
    assert error.mean() < 3.0
    assert np.median(error) <= 2.0


def test_parts_differ_and_distractors_spare_one_tile():
    script = random_script(tiles=4, seconds=9, parts=3, seed=11)
    hidden = ClipScript(script.seed, script.tiles, script.parts, distractor_rate=1.0)
    shown = render(ClipScript(script.seed, script.tiles, script.parts, distractor_rate=0.0))
    differing = (shown[0] != render(hidden)[0]).any(-1).reshape(4, TILE, 4, TILE).any((1, 3))
    assert differing.sum() == 15


def test_split_seconds_sums_and_leaves_no_part_out():
    rng = np.random.default_rng(0)
    for parts in range(1, MAX_PARTS + 1):
        for seconds in (parts, parts + 1, 31, 170):
            durations = split_seconds(seconds, parts, rng)
            assert durations.sum() == seconds and durations.min() >= 1 and len(durations) == parts
    with pytest.raises(ValueError, match="needs 3 seconds"):
        split_seconds(2, 3, rng)


def test_caption_says_what_is_shown():
    assert description(RED_CIRCLE_THEN_PINK_RING) == (
        "This is a video made of two parts. In part one, a large red circle can be seen resting "
        "on the left side over a black background. Then, in part two, we see a white background "
        "with a small pink ring blinking near the top. That is where the video comes to its end."
    )
    assert answer("color", RED_CIRCLE_THEN_PINK_RING, 1) == "The object in part two is pink."
    assert answer("count", RED_CIRCLE_THEN_PINK_RING) == "The video has two parts."
    with pytest.raises(ValueError, match="kind must be one of"):
        answer("smell", RED_CIRCLE_THEN_PINK_RING)


def test_content_accuracy_counts_words_at_their_place():
    truth = "a large red circle resting on the left side over a black background"
    assert len(content_words(truth)) == 6
    assert content_accuracy(truth, truth) == 1.0
    assert content_accuracy(truth.replace("red", "blue"), truth) == pytest.approx(5 / 6)
    assert content_accuracy("a large", truth) == pytest.approx(1 / 6)


def test_texts_are_one_token_a_word_and_stream():
    tokenizer = build_tokenizer()
    rng = np.random.default_rng(0)
    for seed in range(40):
        script = make_clip(500, seed)
        for kind in QUESTIONS:
            exchange = ask(kind, script, rng)
            for text in (exchange.question, exchange.question.lower(), exchange.answer):
                ids = tokenizer(text).input_ids
                assert tokenizer.decode(ids) == text
                assert "".join(tokenizer.decode([i]) for i in ids) == text
                words = text.replace(".", " .").replace(",", " ,").replace("?", " ?").split()
                assert len(ids) == len(words)
        assert 100 <= len(tokenizer(description(script)).input_ids) <= 200


@pytest.mark.parametrize("text", ["Größe 12 x\n\ty", "what about unheard words?", "  two  spaces "])
def test_unknown_text_survives_the_tokenizer(text):
    tokenizer = build_tokenizer()
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_a_tile_looks_the_same_alone_and_in_a_wall(processor, target):
    script = make_clip(2048, seed=9)
    frames = render(script)[:2]
    inputs = clip_inputs(processor, frames, 2.0, "Describe this video.")
    tower = target.model.visual
    with torch.no_grad():
        wall = tower(inputs["pixel_values_videos"], grid_thw=inputs["video_grid_thw"]).pooler_output
        edge = script.tiles
        cut = frames.reshape(2, edge, TILE, edge, TILE, 3).transpose(1, 3, 0, 2, 4, 5)
        tiles = torch.from_numpy(cut.reshape(-1, 2, TILE, TILE, 3).copy())
        alone = tile_features(tower, patchify_tiles(tiles))
    # [row, column, 2 x 2 tokens, H] -> rows of tokens across the frame
    expected = alone.view(edge, edge, 2, 2, -1).transpose(1, 2).reshape(len(wall), -1)
    torch.testing.assert_close(wall, expected, atol=2e-5, rtol=1e-4)


def test_clip_features_follow_the_order_of_visual_tokens():
    script = RED_CIRCLE_THEN_PINK_RING
    views = EASY.views
    features = torch.zeros((EASY.scenes + 1) * views, 4, 2)
    for part, scene in enumerate(easy_scenes(script)):
        features[scene * views : (scene + 1) * views, :, 0] = part + 1
        features[scene * views : (scene + 1) * views, :, 1] = torch.arange(4)
    tokens = clip_features(script, features, np.random.default_rng(0))
    grid = tokens.view(script.seconds, 4, 4, 2)
    assert grid[:, 0, 0, 0].tolist() == [1, 1, 2, 2, 2]
    assert grid[0, :, :, 1].tolist() == [[0, 1, 0, 1], [2, 3, 2, 3]] * 2


def test_training_positions_are_the_models_own(processor, target):
    script = RED_CIRCLE_THEN_PINK_RING
    inputs = clip_inputs(processor, render(script), 2.0, "Describe this video.")
    kind = inputs["mm_token_type_ids"]
    positions, _ = target.model.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=kind,
        video_grid_thw=inputs["video_grid_thw"],
        second_per_grid_ts=inputs["second_per_grid_ts"],
    )
    head = int((inputs["input_ids"][0] == VIDEO).nonzero()[0])
    tail = inputs["input_ids"].shape[1] - head - script.visual_tokens
    expected = prefix_positions(head, script.seconds, 2 * script.tiles, tail)
    assert torch.equal(positions[:, 0], expected)
