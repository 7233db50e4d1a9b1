"""Reading clips: what a player shows at each sample time, whatever the container does."""

from __future__ import annotations

import struct
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

av = pytest.importorskip("av")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

from video_cases import gray_frames, numbers, shown_at, write  # noqa: E402

from sparrow_kernels.models.inputs import build_inputs  # noqa: E402
from sparrow_kernels.video.clip import Clip, read_clip, sampling_rate  # noqa: E402


@pytest.mark.parametrize(
    "suffix, codec", [("mp4", "libx264"), ("mov", "libx264"), ("webm", "libvpx")]
)
def test_samples_what_a_player_shows(tmp_path: Path, suffix: str, codec: str) -> None:
    times = list(range(0, 3000, 100))  # 30 frames at 10 fps: 3 seconds
    path = write(tmp_path / f"clip.{suffix}", gray_frames(30), times, codec)
    for fps in (2, 1, "2/3"):
        clip = read_clip(path, fps)
        rate = Fraction(str(fps))
        assert clip.fps == rate
        assert numbers(clip) == [shown_at(times, k / rate) for k in range(int(3 * rate))]


def test_variable_frame_rate_goes_by_time_not_by_frame(tmp_path: Path) -> None:
    times = [0, 40, 80, 120, 1600, 1640, 2900]
    clip = read_clip(write(tmp_path / "vfr.mp4", gray_frames(7), times), 2)
    # The last frame lasts as long as the container says, so at least up to 2.9 s.
    expected = [shown_at(times, Fraction(k, 2)) for k in range(6)]
    assert numbers(clip)[:6] == expected == [0, 3, 3, 3, 5, 5]


def test_a_late_first_frame_is_second_zero(tmp_path: Path) -> None:
    times = [700 + 250 * i for i in range(8)]
    clip = read_clip(write(tmp_path / "late.webm", gray_frames(8), times, "libvpx"), 2)
    assert numbers(clip) == [0, 2, 4, 6]


def test_odd_frame_counts_and_sizes(tmp_path: Path) -> None:
    frames = [np.pad(f, ((0, 2), (0, 4), (0, 0)), mode="edge") for f in gray_frames(5, 60, 70)]
    clip = read_clip(write(tmp_path / "odd.mp4", frames, [500 * i for i in range(5)]), 2)
    assert clip.frames.shape == (5, 3, 62, 74)
    assert clip.frames.dtype == torch.uint8


def test_a_clip_shorter_than_two_samples_gives_first_and_last(tmp_path: Path) -> None:
    clip = read_clip(write(tmp_path / "short.mp4", gray_frames(9), [40 * i for i in range(9)]), 2)
    assert numbers(clip) == [0, 8]


def test_rotation_of_the_display_matrix_is_applied(tmp_path: Path) -> None:
    """A phone held upright: the picture's left column belongs at the top, turned clockwise."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :16] = 255  # bright left edge
    path = write(tmp_path / "phone.mp4", [picture] * 4, [0, 500, 1000, 1500])
    data = bytearray(path.read_bytes())
    matrix_at = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes before the matrix
    # x' = -y, y' = x in 16.16 (last column 2.30): right goes down, so clockwise.
    clockwise = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    data[matrix_at : matrix_at + 36] = struct.pack(">9i", *clockwise)
    path.write_bytes(data)
    clip = read_clip(path, 2)
    assert clip.frames.shape == (4, 3, 64, 48)
    assert clip.frames[0, :, :12].float().mean() > 200  # left edge is now the top
    assert clip.frames[0, :, 20:].float().mean() < 50


def test_anamorphic_pixels_become_square(tmp_path: Path) -> None:
    path = write(
        tmp_path / "wide.mp4", gray_frames(4), [0, 500, 1000, 1500], sample_aspect=Fraction(2)
    )
    assert read_clip(path, 2).frames.shape == (4, 3, 64, 160)


def test_large_frames_shrink_while_decoding(tmp_path: Path) -> None:
    path = write(tmp_path / "large.mp4", gray_frames(4, 240, 320), [0, 500, 1000, 1500])
    frames = read_clip(path, 2, max_frame_pixels=120 * 160).frames
    assert frames.shape == (4, 3, 120, 160)


@pytest.mark.parametrize("fps", [2, 2.0, 1, 0.5, "2/3", "0.4", Fraction(2, 49)])
def test_rates_whose_patches_span_whole_seconds(fps: float | str | Fraction) -> None:
    assert (2 / sampling_rate(fps)).denominator == 1


@pytest.mark.parametrize("fps", [3, 0, -1, 0.3, 30, "x", "1/0", "nan", "inf", ""])
def test_other_rates_are_refused_by_name(fps: float | str) -> None:
    with pytest.raises(ValueError, match=r"fps must be 2 divided by a whole number, got .*such as"):
        sampling_rate(fps)


@pytest.mark.parametrize(
    "fps",
    [
        "1e-9999999",
        "1e9999999",
        "1e-9_999_999",
        Decimal("1e-9999999"),
        "1" * 5000,
        10**5000,
        Fraction(1, 10**5000),
        float("nan"),
        float("inf"),
        np.float32("nan"),
        True,
        None,
        "1e-300",
        1e-9,
        "1/86400000",
    ],
    ids=lambda fps: type(fps).__name__,
)
def test_absurd_rates_are_refused_at_once_in_one_short_line(fps: Any) -> None:
    start = time.process_time()
    with pytest.raises(
        ValueError, match=r"^fps must be 2 divided by a whole number, got "
    ) as raised:
        sampling_rate(fps)
    assert time.process_time() - start < 10  # it was minutes, or for ever
    assert len(str(raised.value)) < 250 and "\n" not in str(raised.value)


def test_numbers_of_other_types_and_the_slowest_rate() -> None:
    assert sampling_rate(np.float32(0.4)) == Fraction(2, 5)
    assert sampling_rate(np.int64(2)) == sampling_rate(Decimal("2.0")) == sampling_rate("2e0") == 2
    assert sampling_rate("1/43200") == Fraction(2, 86400)  # two frames a day
    with pytest.raises(ValueError, match="got 1/43201, so that they span more than a day"):
        sampling_rate("1/43201")


def test_refusals_name_the_file(tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("not a video")
    cut = tmp_path / "cut.mp4"
    whole = write(tmp_path / "whole.mp4", gray_frames(6), [500 * i for i in range(6)])
    cut.write_bytes(whole.read_bytes()[:200])
    still = write(tmp_path / "still.mp4", gray_frames(1), [0])
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    for path, message in [
        (text, "notes.mp4 cannot be read as a video: Invalid data"),
        (cut, "cut.mp4 cannot be read as a video"),
        (still, "at least 2 frames, got 1 in .*still.mp4 .a still picture"),
        (sound, "must have a video stream, got none in .*sound.mp4"),
        (tmp_path, "must be a video file, got"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_clip(path)
    with pytest.raises(FileNotFoundError, match=r"nothing\.mp4 does not exist"):
        read_clip(tmp_path / "nothing.mp4")


def test_damage_that_stops_the_decoder_is_no_shorter_clip(tmp_path: Path) -> None:
    path = write(tmp_path / "damaged.mp4", gray_frames(40), [100 * i for i in range(40)])
    data = bytearray(path.read_bytes())
    pictures = data.index(b"mdat") + 4
    middle = (pictures + data.index(b"moov")) // 2
    data[middle : middle + 400] = bytes([255]) * 400
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged\.mp4 cannot be read as a video: Invalid data"):
        read_clip(path)


def test_a_video_without_frames_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()
    with pytest.raises(ValueError, match=r"at least 2 frames, got 0 in .*empty\.mkv"):
        read_clip(path)


def test_too_long_a_clip_names_a_rate_that_fits(tmp_path: Path) -> None:
    path = write(tmp_path / "long.mp4", gray_frames(40), [500 * i for i in range(40)])
    with pytest.raises(ValueError, match=r"at most 12 frames at 2 fps.*--fps 1/2\)"):
        read_clip(path, 2, max_frames=12)
    assert len(read_clip(path, "1/2", max_frames=12).frames) == 10


@pytest.fixture(scope="module")
def processor() -> Any:
    from sparrow_kernels.training.small_target import build_processor

    return build_processor()


class TestBuildInputs:
    """Through the embedded target's own processor."""

    def test_second_per_grid_is_whole_and_odd_counts_are_padded(
        self, processor: Any, tmp_path: Path
    ) -> None:
        path = write(tmp_path / "a.mp4", gray_frames(5, 56, 56), [500 * i for i in range(5)])
        for fps, patches, seconds in ((2, 3, 1.0), (1, 2, 2.0)):
            inputs = build_inputs(processor, "What?", [path], fps=fps)
            assert inputs["second_per_grid_ts"].tolist() == [seconds]
            assert inputs["video_grid_thw"].tolist() == [[patches, 4, 4]]
            visual = inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids(
                "<|video_pad|>"
            )
            assert int(visual.sum()) == patches * 4

    def test_a_rate_whose_float_does_not_divide(self, processor: Any) -> None:
        clip = Clip(torch.zeros(4, 3, 56, 56, dtype=torch.uint8), Fraction(2, 49))
        assert 2 / float(clip.fps) != 49
        assert build_inputs(processor, "What?", [clip])["second_per_grid_ts"].tolist() == [49.0]

    def test_several_clips_in_order_before_the_question(self, processor: Any) -> None:
        clips = [
            Clip(torch.full((n, 3, 56, 56), n * 20, dtype=torch.uint8), Fraction(2, span))
            for n, span in ((2, 1), (4, 2))
        ]
        inputs = build_inputs(processor, "What?", clips)
        assert inputs["video_grid_thw"].tolist() == [[1, 4, 4], [2, 4, 4]]
        assert inputs["second_per_grid_ts"].tolist() == [1.0, 2.0]
        pixels = inputs["pixel_values_videos"]
        assert float(pixels[:16].std()) < 1e-6
        assert float(pixels[16:].mean()) > float(pixels[:16].mean())
        assert processor.tokenizer.decode(inputs["input_ids"][0]).count("What?") == 1

    def test_refusals(self, processor: Any) -> None:
        clip = Clip(torch.zeros(2, 3, 56, 56, dtype=torch.uint8), Fraction(2))
        with pytest.raises(ValueError, match="at least one clip, got none"):
            build_inputs(processor, "What?", [])
        with pytest.raises(ValueError, match="question must not be empty"):
            build_inputs(processor, "  ", [clip])
        template, processor.chat_template = processor.chat_template, None
        try:
            with pytest.raises(ValueError, match="processor must have a chat template"):
                build_inputs(processor, "What?", [clip])
        finally:
            processor.chat_template = template
