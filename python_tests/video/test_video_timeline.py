"""When frames are shown where timestamps restart, jump, err or are missing."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparrow_kernels.video.timeline import Timestamps

av = pytest.importorskip("av")

from video_cases import gray_frames, numbers, write  # noqa: E402

from sparrow_kernels.video.clip import read_clip  # noqa: E402

HALVES = [500 * i for i in range(6)]
HOUR = 3_600_000


def seconds(stamps: list[Any], **container: Any) -> list[float]:
    """What is shown when, of timestamps in seconds."""
    given = [None if stamp is None else Fraction(str(stamp)) for stamp in stamps]
    return [float(second) for second in Timestamps(Fraction(1), **container).seconds(given)]


class TestTimestamps:
    @pytest.mark.parametrize("jumps_allowed", [False, True])
    def test_a_restart_goes_on_by_the_gap_before(self, jumps_allowed: bool) -> None:
        stamps = [7, 7.5, 8, 0, 0.5, 1, 100, 100.25]
        mended = [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.25] if jumps_allowed else None
        expected = mended or [0, 0.5, 1, 1.5, 2, 2.5, 101.5, 101.75]
        assert seconds(stamps, discontinuous=jumps_allowed) == expected

    def test_a_part_of_one_frame_takes_the_frame_rate(self) -> None:
        assert seconds([5, 0, 2, 4]) == [0, 1, 3, 5]

    @pytest.mark.parametrize(
        "tenths, expected",
        [
            # I P B B as decoded; the P of each group is contradicted by what is around it.
            ([0, 3, 1, 2, 6, 4, 5, 9, 7, 8, 10], [0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 10]),
            # A pyramid of B-frames as decoded.
            ([0, 4, 2, 1, 3, 8, 6, 5, 7, 9], [0, 2, 2, 2, 3, 4, 5, 5, 7, 9]),
            ([0, 1, 2, 4, 3, 5, 6], [0, 1, 2, 3, 3, 5, 6]),
        ],
        ids=["decoded", "pyramid", "swapped"],
    )
    def test_disorder_of_b_frames_is_no_restart(
        self, tenths: list[int], expected: list[int]
    ) -> None:
        shown = seconds([tenth / 10 for tenth in tenths], discontinuous=True)
        assert shown == [tenth / 10 for tenth in expected]

    @pytest.mark.parametrize("stray", [0, 7200, None, 4, -95443])
    def test_one_wrong_or_missing_timestamp_only_loses_itself(self, stray: float | None) -> None:
        shown = seconds([10, 10.5, 11, stray, 12, 12.5], discontinuous=True)
        assert shown == [0, 0.5, 1, 1.5, 2, 2.5]

    def test_without_any_timestamps_the_frame_rate_counts(self) -> None:
        assert seconds([None] * 4) == [0, 1, 2, 3]
        assert seconds([None, None, 7, 7.5]) == [0, 1, 2, 2.5]

    def test_equal_timestamps_stay_equal(self) -> None:
        assert seconds([0, 1, 1, 2]) == [0, 1, 1, 2]

    def test_jumps_by_format(self) -> None:
        jump = [0, 0.5, 1, 13, 13.5]
        assert seconds(jump) == jump
        assert seconds(jump, discontinuous=True) == [0, 0.5, 1, 1.5, 2]
        within = [0, 0.5, 1, 11, 11.5]  # 10 s exactly: ffmpeg's dts_delta_threshold
        assert seconds(within, discontinuous=True) == within

    def test_a_slide_show_is_no_row_of_jumps(self) -> None:
        for stamps in ([0, 20, 40, 60, 80], [0, 25, 40, 70, 1270]):
            assert seconds(stamps) == stamps
        assert seconds([0, 20, 40, 60, 80], discontinuous=True) == [0, 20, 40, 60, 80]

    def test_an_hour_is_a_jump_in_every_format(self) -> None:
        assert seconds([0, 1, 3600.5, 3601]) == [0, 1, 3600.5, 3601]
        assert seconds([0, 1, 3601, 3602]) == [0, 1, 2, 3]

    def test_a_jump_past_the_stated_length(self) -> None:
        stamps = [0, 1, 2, 1802, 1803]
        assert seconds(stamps, stated=Fraction(1804)) == stamps
        assert seconds(stamps, stated=Fraction(4)) == [0, 1, 2, 3, 4]
        # A restart is not in the stated length, which so tells nothing of what follows.
        assert seconds([0, 1, 2, 0, 15, 30], stated=Fraction(3)) == [0, 1, 2, 3, 18, 33]

    @given(
        st.lists(
            st.lists(st.integers(1, 80), min_size=4, max_size=12).map(
                lambda gaps: [sum(gaps[: i + 1]) for i in range(len(gaps))]
            ),
            min_size=1,
            max_size=4,
        )
    )
    def test_joined_runs_keep_their_gaps(self, runs: list[list[int]]) -> None:
        """Each run far before the one ahead of it, so that every join is seen."""
        stamps = [Fraction(t - 10_000 * i, 10) for i, run in enumerate(runs) for t in run]
        shown = list(Timestamps(Fraction(1), discontinuous=True).seconds(stamps))
        expected, before = [Fraction(0)], 0
        for number, run in enumerate(runs):
            if number:
                expected.append(expected[-1] + Fraction(before, 10))
            for here, after in zip(run, run[1:], strict=False):
                before = after - here
                expected.append(expected[-1] + Fraction(before, 10))
        assert shown == expected


def joined(folder: Path, *parts: Path) -> Path:
    path = folder / f"joined{parts[0].suffix}"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def part(path: Path, first: int, times: list[int], codec: str = "libx264", **how: Any) -> Path:
    """Frames numbered from `first` on."""
    return write(path, gray_frames(first + len(times))[first:], times, codec, **how)


class TestFiles:
    # webm and mkv state that the last frame of all lasts 1 ms: too short for its sample.
    @pytest.mark.parametrize(
        "suffix, codec, count",
        [("ts", "libx264", 12), ("webm", "libvpx", 11), ("mkv", "libx264", 11)],
    )
    def test_joined_files_show_all_their_parts(
        self, tmp_path: Path, suffix: str, codec: str, count: int
    ) -> None:
        parts = [part(tmp_path / f"{i}.{suffix}", 6 * i, HALVES, codec) for i in range(2)]
        assert numbers(read_clip(joined(tmp_path, *parts), 2)) == list(range(count))

    def test_joined_program_streams(self, tmp_path: Path) -> None:
        times = [1000 * i // 25 for i in range(20)]  # 0.8 s
        parts = [part(tmp_path / f"{i}.mpg", 20 * i, times, "mpeg2video", rate=25) for i in (0, 1)]
        # Frames 12.5, 25 and 37.5 of all; the tests' grays repeat after 40.
        assert numbers(read_clip(joined(tmp_path, *parts), 2)) == [0, 12, 25, 37]

    @pytest.mark.parametrize("start", [1_000_000, 95_442_000], ids=["later", "wraps"])
    def test_parts_that_begin_anywhere_on_the_33_bit_clock(
        self, tmp_path: Path, start: int
    ) -> None:
        """A clock of 90 kHz and 33 bits starts over after 95443.7 s, here within a part."""
        late = part(tmp_path / "late.ts", 0, [start + time for time in HALVES])
        early = part(tmp_path / "early.ts", 6, HALVES)
        assert numbers(read_clip(late, 2)) == list(range(6))
        assert numbers(read_clip(joined(tmp_path, late, early), 2)) == list(range(12))
        swapped = [*range(6, 12), *range(6)]
        assert numbers(read_clip(joined(tmp_path, early, late), 2)) == swapped

    def test_parts_of_several_sizes_are_refused(self, tmp_path: Path) -> None:
        parts = [
            write(tmp_path / f"{height}.ts", gray_frames(6, height), HALVES) for height in (64, 96)
        ]
        with pytest.raises(ValueError, match="must keep one frame size, got several in .*joined"):
            read_clip(joined(tmp_path, *parts), 2)

    @pytest.mark.parametrize(
        "suffix, codec", [("ts", "libx264"), ("mp4", "libx264"), ("webm", "libvpx")]
    )
    def test_a_jump_of_an_hour_is_cut(self, tmp_path: Path, suffix: str, codec: str) -> None:
        times = [0, 500, 1000, HOUR + 1500, HOUR + 2000, HOUR + 2500, HOUR + 3000]
        path = part(tmp_path / f"jump.{suffix}", 0, times, codec)
        assert numbers(read_clip(path, 2))[:6] == list(range(6))
        with pytest.raises(
            ValueError, match=r"at most 4 frames at 2 fps, got a clip of [23]\.\d s"
        ):
            read_clip(path, 2, max_frames=4)

    def test_the_length_with_a_jump_refuses_no_clip(self, tmp_path: Path) -> None:
        """The container's own length, an hour, is more than 768 samples."""
        first = part(tmp_path / "first.ts", 0, HALVES)
        later = part(tmp_path / "later.ts", 6, [HOUR + time for time in HALVES])
        path = joined(tmp_path, first, later)
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.duration * stream.time_base > 3600
        assert numbers(read_clip(path, 2)) == list(range(12))

    @pytest.mark.parametrize(
        "suffix, codec",
        [("ts", "libx264"), ("mp4", "libx264"), ("mkv", "libx264"), ("webm", "libvpx")],
    )
    def test_a_slide_show_keeps_its_time(self, tmp_path: Path, suffix: str, codec: str) -> None:
        path = part(tmp_path / f"slides.{suffix}", 0, [20_000 * i for i in range(5)], codec)
        assert numbers(read_clip(path, "1/10"))[:8] == [0, 0, 1, 1, 2, 2, 3, 3]

    @pytest.mark.parametrize("lasts, samples", [(3, 11), (3600, 6)])
    def test_a_last_frame_of_an_hour_lasts_as_long_as_the_one_before(
        self, tmp_path: Path, lasts: int, samples: int
    ) -> None:
        path = part(tmp_path / "last.mp4", 0, HALVES)
        data = bytearray(path.read_bytes())
        table = data.index(b"stts") + 8  # version, flags; then entries of (count, ticks)
        entries = [2, 5, 8000, 1, 16]
        assert struct.unpack_from(">5i", data, table) == tuple(entries)
        struct.pack_into(">5i", data, table, *entries[:4], lasts * 16000)
        path.write_bytes(data)
        assert numbers(read_clip(path, 2)) == [*range(5), *[5] * (samples - 5)]
