"""Sampling a video to about so many visual tokens."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("av")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

from family_cases import FAMILIES, pixels, tiny
from video_cases import gray_frames, numbers, write

from sparrow_kernels.embedded.clips import write_mp4
from sparrow_kernels.measuring import clip_plan
from sparrow_kernels.measuring.clip_plan import Plan, Prompt, plan_files
from sparrow_kernels.measuring.lengths import (
    FrameRules,
    Reach,
    default_rate,
    nearest,
    read_densely,
    thinned,
)
from sparrow_kernels.video.clip import Clip

RULES = FrameRules(merged=2, packs=True, most=768)


def pairs(tokens: int) -> Callable[[int], int]:
    """Two frames are merged, an odd one counts as two."""
    return lambda frames: -(-frames // 2) * tokens


def capped(tokens: int, most: int) -> Callable[[int], int]:
    """A budget for the whole clip makes frames smaller."""
    return lambda frames: frames * min(tokens, most // frames)


@pytest.mark.parametrize(
    "count, merged, length, most, frames",
    [
        (pairs(10), 2, 200, 100, 40),
        (pairs(10), 2, 204, 100, 40),  # the nearest pair
        (pairs(10), 2, 206, 100, 42),
        (pairs(10), 2, 5, 100, 2),
        (pairs(10), 2, 900, 100, 100),
        (pairs(10), 2, 900, 101, 101),  # all there are, the last one half of a pair
        (lambda frames: 7 * frames + 1, 1, 36, 100, 5),  # a newline behind the frames
        (lambda frames: 7 * frames + 1, 1, 36, 2, 2),
        (capped(10, 120), 1, 100, 40, 10),
        (lambda frames: int(10 * frames**0.8), 1, 300, 300, 70),  # frames shrink
    ],
)
def test_the_nearest_number_of_frames(
    count: Callable[[int], int], merged: int, length: int, most: int, frames: int
) -> None:
    asked: list[int] = []
    reach = nearest(length, most, merged, lambda n: asked.append(n) or count(n))
    assert all(2 <= n <= most for n in asked) and len(asked) <= 8
    assert reach.visual_tokens == count(reach.frames)
    best = min(abs(count(n) - length) for n in range(2, most + 1))
    assert abs(reach.visual_tokens - length) <= max(best, 0.03 * length)
    assert reach.frames == pytest.approx(frames, rel=0.05)


def test_what_is_about_a_length() -> None:
    assert Reach(10, 455, 4).is_about(500) and not Reach(10, 449, 4).is_about(500)
    assert Reach(10, 545, 4).is_about(500) and not Reach(10, 551, 4).is_about(500)
    assert Reach(2, 700, 400).is_about(500) and not Reach(2, 701, 400).is_about(500)


@pytest.mark.parametrize(
    "frames, fps, seen",
    [
        (20, 2, list(range(20))),
        (10, 1, list(range(0, 20, 2))),
        (7, Fraction(2, 3), list(range(0, 19, 3))),
        (11, 2, list(range(11))),  # every second one would be too few
        (2, Fraction(2, 19), [0, 19]),
    ],
)
def test_thinned_takes_frames_evenly_over_as_much_as_it_can(
    frames: int, fps: Fraction, seen: list[int]
) -> None:
    whole = Clip(torch.arange(20)[:, None, None, None].expand(-1, 3, 2, 2), Fraction(2))
    clip = thinned(whole, frames)
    assert clip.frames[:, 0, 0, 0].tolist() == seen
    assert clip.fps == fps


@pytest.mark.parametrize("merged, rate", [(1, 1), (2, 2), (3, Fraction(3, 2)), (4, 2)])
def test_the_default_rate_is_one_that_a_processor_takes(merged: int, rate: Fraction) -> None:
    assert default_rate(FrameRules(merged, True, 768)) == rate


def test_a_video_too_long_for_two_frames_a_second_is_read_at_fewer(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", gray_frames(30), [500 * n for n in range(30)])
    assert numbers(read_densely(path, RULES)) == list(range(30))
    clip = read_densely(path, RULES._replace(most=12))
    assert clip.fps == Fraction(2, 3)
    assert numbers(clip) == list(range(0, 30, 3))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of 60 and 12 frames."""
    root = tmp_path_factory.mktemp("videos")
    for name, frames in {"long": 60, "short": 12}.items():
        seen = pixels(frames, seed=frames).numpy().transpose(0, 2, 3, 1)
        write_mp4(root / f"{name}.mp4", seen)
    return [root / "long.mp4", root / "short.mp4"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_planned_is_what_a_target_of_any_family_gets(name: str, videos: list[Path]) -> None:
    target, processor = tiny(name)
    prompt = Prompt(target, processor, "Why?")
    whole = plan_files(prompt, videos, [])
    assert [case.clip for case in whole.cases] == ["long.mp4", "short.mp4"]
    most, most_of_short = (case.visual_tokens for case in whole.cases)
    lengths = [most // 6, most, most // 3]
    plan = plan_files(prompt, videos, lengths)
    reached = [length for length in lengths if length <= most_of_short]  # glm4v shrinks frames
    assert lengths[0] in reached and most not in reached
    assert [(case.length, case.clip) for case in plan.cases] == [
        (length, clip)
        for length in lengths
        for clip in ("long.mp4", "short.mp4")[: 1 + (length in reached)]
    ]
    assert [(one.clip, one.length) for one in plan.left_out] == [
        ("short.mp4", length) for length in lengths if length not in reached
    ]
    for case in [*whole.cases, *plan.cases]:
        clip = case.read()
        assert (len(clip.frames), float(clip.fps)) == (case.frames, case.fps)
        mask = prompt._parts.visual_mask(prompt.inputs(clip)["input_ids"])
        assert int(mask.sum()) == case.visual_tokens
        length = case.length or case.visual_tokens
        assert abs(case.visual_tokens - length) <= max(0.1 * length, 2)  # glm4v: 4 for two frames


@pytest.mark.slow
def test_a_prompt_beyond_the_context_is_left_out(videos: list[Path]) -> None:
    prompt = Prompt(*tiny("qwen2_5_vl"), "Why?")
    tokens = prompt.counts(read_densely(videos[0], prompt.rules))
    prompt.context = tokens[1]
    for lengths in ([], [tokens[0]]):
        plan = plan_files(prompt, videos[:1], lengths)
        assert plan.cases == []
        assert f"prompt of {tokens[1]} tokens leaves no room" in str(plan.left_out[0])
        with pytest.raises(ValueError, match="no clip (can be asked about|comes near)"):
            plan.check()
    prompt.context = tokens[1] + 1
    assert plan_files(prompt, videos[:1], []).left_out == []


def test_a_clip_as_it_is_may_have_too_many_frames(videos: list[Path]) -> None:
    prompt = Prompt(*tiny("qwen2_5_vl"), "Why?")
    prompt.rules = prompt.rules._replace(most=30)
    plan = plan_files(prompt, videos, [])
    assert [case.clip for case in plan.cases] == ["short.mp4"]
    said = (
        "long.mp4 is left out: it has more than 30 frames at 2 a second (--lengths samples fewer)"
    )
    assert [str(one) for one in plan.left_out] == [said]
    plan.check()


def test_files_of_one_name_are_told_apart_by_their_folders() -> None:
    paths = [Path("x/a.mp4"), Path("y/a.mp4")]
    assert clip_plan._names(paths) == ["x/a.mp4", "y/a.mp4"]
    assert clip_plan._names([paths[0], Path("y/b.mp4")]) == ["a.mp4", "b.mp4"]


def test_a_processor_without_clips_is_refused() -> None:
    target, processor = tiny("qwen2_5_vl")
    blind: Any = type("ImagesOnly", (), {"tokenizer": processor.tokenizer})()
    with pytest.raises(ValueError, match="must take clips, got ImagesOnly without a video proc"):
        Prompt(target, blind, "Why?")


def test_many_clips_left_out_are_counted() -> None:
    left_out = [clip_plan.LeftOut(f"{n}.mp4", 5, "it reaches 3") for n in range(6)]
    with pytest.raises(ValueError, match=r"5 visual tokens \(0.mp4: it reaches 3; .*; 2 more\)"):
        Plan([], left_out).check()
