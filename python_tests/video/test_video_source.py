"""What a clip is read from: paths, open files and URLs, and which track of several."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

av = pytest.importorskip("av")

from video_cases import gray_frames, numbers, write  # noqa: E402

from sparrow_kernels.video.clip import clip_path, read_clip  # noqa: E402

TIMES = [500 * i for i in range(6)]
_DEFAULT, _ATTACHED_PIC, _STILL_IMAGE = 0x1, 0x400, 0x100000


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write(tmp_path / "clip.mp4", gray_frames(6), TIMES)


class Unseekable(io.RawIOBase):
    """What a pipe or a download is."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._data.read(size)


class TestFiles:
    def test_an_open_file_is_read_from_its_start_and_stays_open(self, clip: Path) -> None:
        expected = read_clip(clip, 2)
        with clip.open("rb") as file:
            for at in (0, 100, clip.stat().st_size):
                file.seek(at)
                assert (read_clip(file, 2).frames == expected.frames).all()
                assert not file.closed
        memory = io.BytesIO(clip.read_bytes())
        assert numbers(read_clip(memory, 2)) == numbers(expected) == [0, 1, 2, 3, 4]
        assert not memory.closed

    def test_a_file_that_cannot_be_rewound(self, tmp_path: Path) -> None:
        path = write(tmp_path / "clip.ts", gray_frames(6), TIMES)
        assert numbers(read_clip(Unseekable(path.read_bytes()), 2)) == list(range(6))
        # Too long for a limit: there is no second look, so the decoder finds out.
        with pytest.raises(
            ValueError, match=r"at most 4 frames .*an open Unseekable .sample fewer"
        ):
            read_clip(Unseekable(path.read_bytes()), 2, max_frames=4)

    def test_a_long_open_file_is_looked_at_twice(self, tmp_path: Path) -> None:
        path = write(tmp_path / "long.ts", gray_frames(3), [0, 500, 3_601_000])
        file = io.BytesIO(path.read_bytes())
        assert numbers(read_clip(file, 2, max_frames=3)) == [0, 1, 2]

    def test_other_objects_are_refused_by_name(self, clip: Path, tmp_path: Path) -> None:
        with clip.open("rb") as closed:
            pass
        with (
            clip.open(encoding="latin-1") as text,
            (tmp_path / "new.mp4").open("wb") as writing,
        ):
            for bad, kind, message in [
                (clip.read_bytes(), TypeError, r"open binary file, got bytes .io\.BytesIO"),
                (None, TypeError, "must be a path or an open binary file, got NoneType"),
                (text, ValueError, "file open as binary, got .*clip.mp4 open as text"),
                (io.StringIO("x"), ValueError, "open as binary, got an open StringIO open as"),
                (closed, ValueError, "must be an open file, got .*clip.mp4, which is closed"),
                (writing, ValueError, "file open to read, got .*new.mp4 open to write"),
                (io.BytesIO(b"x" * 999), ValueError, "an open BytesIO cannot be read as a video"),
            ]:
                with pytest.raises(kind, match=message):
                    read_clip(bad)

    @pytest.mark.parametrize(
        "url, way",
        [
            ("https://example.org/a.mp4", "download it first"),
            ("HTTP://example.org/a.mp4", "download it first"),
            (Path("https://example.org/a.mp4"), "download it first"),
            ("rtsp://example.org/live", "download it first"),
            ("file:///videos/a.mp4", "pass its path"),
        ],
    )
    def test_a_url_is_refused_with_the_way_on(self, url: Any, way: str) -> None:
        for read in (read_clip, clip_path):
            with pytest.raises(ValueError, match=rf"on this machine, got the URL .* \({way}\)$"):
                read(url)

    @pytest.mark.parametrize("name", ["12:30.mp4", "http:clip.mp4", "concat:a.mp4", "-.mp4"])
    def test_a_file_whose_name_looks_like_a_protocol(
        self, clip: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clip.rename(clip.parent / name)
        monkeypatch.chdir(clip.parent)
        assert clip_path(name) == Path(name)
        assert numbers(read_clip(name, 2)) == [0, 1, 2, 3, 4]

    def test_a_path_that_is_not_there(self, tmp_path: Path) -> None:
        for missing in ("C:/clip.mp4", str(tmp_path / "a:b.mp4")):
            with pytest.raises(FileNotFoundError, match=r"^clip .*mp4 does not exist$"):
                clip_path(missing)


class Track(NamedTuple):
    first: int
    """The number of its first frame."""
    height: int = 64
    codec: str = "libx264"
    disposition: int | None = None
    count: int = 6


MAIN = Track(0, height=128)
PREVIEW = Track(20, height=48)


def write_tracks(path: Path, *tracks: Track) -> Path:
    """Tracks of 2 frames a second."""
    with av.open(str(path), "w") as container:
        streams = []
        for track in tracks:
            stream = container.add_stream(track.codec, rate=2)
            stream.height, stream.width = track.height, track.height * 5 // 4
            stream.pix_fmt = "yuvj420p" if track.codec == "mjpeg" else "yuv420p"
            if track.disposition is not None:
                stream.disposition = track.disposition
            streams.append(stream)
        for number in range(6):
            for stream, track in zip(streams, tracks, strict=True):
                if number < track.count:
                    picture = gray_frames(40, stream.height, stream.width)[track.first + number]
                    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                    frame.pts, frame.time_base = number, Fraction(1, 2)
                    container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


class TestTracks:
    @pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
    @pytest.mark.parametrize("tracks", [(PREVIEW, MAIN), (MAIN, PREVIEW)], ids=["first", "last"])
    def test_a_small_preview_is_not_the_clip(
        self, tmp_path: Path, suffix: str, tracks: tuple[Track, ...]
    ) -> None:
        path = write_tracks(tmp_path / f"clip.{suffix}", *tracks)
        assert numbers(read_clip(path, 2)) == list(range(6))

    @pytest.mark.parametrize("suffix", ["mp4", "mkv"])
    def test_the_default_track_wins_even_where_it_is_smaller(
        self, tmp_path: Path, suffix: str
    ) -> None:
        other, default = MAIN._replace(first=20, disposition=0), Track(0, disposition=_DEFAULT)
        path = write_tracks(tmp_path / f"second.{suffix}", other, default)
        assert numbers(read_clip(path, 2)) == list(range(6))
        path = write_tracks(tmp_path / f"first.{suffix}", default, other._replace(height=80))
        assert numbers(read_clip(path, 2)) == list(range(6))

    @pytest.mark.parametrize("suffix", ["mp4", "mkv"])
    def test_a_cover_picture_is_not_the_clip(self, tmp_path: Path, suffix: str) -> None:
        """mp4 marks it, and matroska shows by its codec alone that it is one."""
        cover = Track(30, 200, "mjpeg", _ATTACHED_PIC, count=1)
        path = write_tracks(tmp_path / f"clip.{suffix}", cover, MAIN)
        assert numbers(read_clip(path, 2)) == list(range(6))

    def test_pictures_by_disposition_come_first_in_no_container(self) -> None:
        """Whatever order a demuxer gives the tracks in."""
        from types import SimpleNamespace

        from sparrow_kernels.video.source import VideoSource

        def track(disposition: int, width: int = 320) -> SimpleNamespace:
            context = SimpleNamespace(width=width, height=240, bit_rate=None, name="h264")
            return SimpleNamespace(disposition=disposition, frames=0, codec_context=context)

        video = track(0)
        for disposition in (_ATTACHED_PIC, _ATTACHED_PIC | 0x800, 0x800, _STILL_IMAGE):
            streams = [track(disposition | _DEFAULT, width=4000), video]
            assert VideoSource(io.BytesIO())._best(streams) is video
        undecodable = SimpleNamespace(disposition=_DEFAULT, frames=9, codec_context=None)
        assert VideoSource(io.BytesIO())._best([undecodable, video]) is video
        with pytest.raises(ValueError, match="no decoder for it"):
            VideoSource(io.BytesIO())._best([undecodable])

    def test_music_with_a_cover_has_no_video(self, tmp_path: Path) -> None:
        path = tmp_path / "song.mp3"
        with av.open(str(path), "w") as container:
            music = container.add_stream("libmp3lame", rate=8000)
            cover = container.add_stream("mjpeg", rate=1)
            cover.width = cover.height = 64
            cover.pix_fmt, cover.disposition = "yuvj420p", _ATTACHED_PIC
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 576), np.float32), "fltp", "mono")
            silence.sample_rate = 8000
            container.mux(music.encode(silence))
            picture = av.VideoFrame.from_ndarray(gray_frames(1, 64, 64)[0], format="rgb24")
            picture.pts = 0
            container.mux(cover.encode(picture))
            container.mux(cover.encode(None))
            container.mux(music.encode(None))
        with pytest.raises(ValueError, match=r"video stream, got only a cover picture in .*song"):
            read_clip(path)
