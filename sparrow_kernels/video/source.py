"""Where a clip comes from: a path or an open binary file, and which of its tracks is the clip."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from sparrow_kernels.video.timeline import Timestamps

# https://host/a.mp4, also as pathlib writes it (https:/host/a.mp4); C:/a.mp4 is a path.
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/", re.IGNORECASE)
_TEXT = "tty"
"""FFmpeg's format of text with escape sequences: it shows any text file as a film of letters."""
_TS_DISCONT = 0x0200  # AVFMT_TS_DISCONT of libavformat/avformat.h
_PREVIEW = 4  # a track with this times fewer pixels than another may be its preview


def clip_path(clip: str | os.PathLike[str]) -> Path:
    """The path of a clip that can be opened.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a URL, a folder, a pipe.
    """
    path = Path(clip)
    if not path.exists():
        scheme = _URL.match(os.fspath(clip))
        if scheme:
            way = "pass its path" if scheme[1].lower() == "file" else "download it first"
            raise ValueError(f"clip must be a file on this machine, got the URL {clip} ({way})")
        raise FileNotFoundError(f"clip {path} does not exist")
    if not path.is_file():
        raise ValueError(f"clip must be a video file, got {path}, which is no file")
    return path


class VideoSource:
    """A clip to open, once or, where `rewinds`, again from its start.

    Raises:
        FileNotFoundError, ValueError: as `clip_path`; a file that is closed, or open as text.
        TypeError: neither a path nor a file.
    """

    def __init__(self, clip: str | os.PathLike[str] | BinaryIO) -> None:
        self.name = ""
        """What an error calls the clip."""
        self.rewinds = True
        self._file: Any = None
        if isinstance(clip, (str, os.PathLike)):
            path = clip_path(clip)
            self.name = str(path)
            # FFmpeg would take `12:30.mp4` for a URL, but nothing that begins with a slash.
            self._opens: Any = os.path.abspath(path)
            return
        kind = type(clip).__name__
        if not callable(getattr(clip, "read", None)):
            hint = " (io.BytesIO(clip) is one)" if isinstance(clip, (bytes, bytearray)) else ""
            raise TypeError(f"clip must be a path or an open binary file, got {kind}{hint}")
        name = getattr(clip, "name", None)
        self.name = name if isinstance(name, str) else f"an open {kind}"
        if isinstance(clip, io.TextIOBase):
            raise ValueError(f"clip must be a file open as binary, got {self.name} open as text")
        if getattr(clip, "closed", False):
            raise ValueError(f"clip must be an open file, got {self.name}, which is closed")
        if not getattr(clip, "readable", lambda: True)():
            raise ValueError(f"clip must be a file open to read, got {self.name} open to write")
        self._opens = self._file = clip
        self.rewinds = bool(getattr(clip, "seekable", lambda: False)())

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """The clip's video stream; FFmpeg's errors inside the block become ours.

        A file given open is read from its start where it can be rewound, and stays open.
        """
        try:
            import av
        except ImportError as error:
            raise ImportError(
                "reading a video needs PyAV, which is not installed"
                " (pip install 'sparrow_kernels[video]')",
                name="av",
            ) from error

        if self._file is not None and self.rewinds:
            self._file.seek(0)
        try:
            with av.open(self._opens) as container:
                if container.format.name == _TEXT:
                    raise ValueError(f"clip must be a video, got text in {self.name}")
                stream = self._best(container.streams.video)
                stream.thread_type = "AUTO"
                yield stream
        except av.EOFError as error:  # before anything could be decoded
            raise ValueError(f"clip must have at least 2 frames, got 0 in {self.name}") from error
        except av.FFmpegError as error:
            reason = error.strerror or type(error).__name__
            raise ValueError(f"clip {self.name} cannot be read as a video: {reason}") from error

    def _best(self, streams: Any) -> Any:
        """The track a player shows: the default one, then the largest, then the densest.

        FFmpeg's av_find_best_stream, which may also pick a cover picture, and which takes a small
        preview where the preview is the first track: mp4's and other muxers mark the first as the
        default when nobody chose. That mark yields to a track of four times the pixels. A cover
        that its container cannot mark as one is known by its codec.
        """
        if not streams:
            raise ValueError(f"clip must have a video stream, got none in {self.name}")
        moving = [stream for stream in streams if not _is_picture(stream)]
        if not moving:
            raise ValueError(
                f"clip must have a video stream, got only a cover picture in {self.name}"
            )
        decodable = [stream for stream in moving if stream.codec_context is not None]
        if not decodable:
            raise ValueError(f"clip {self.name} cannot be read as a video: no decoder for it")
        largest = max(map(_pixels, decodable))

        def merit(stream: Any) -> tuple[bool, bool, int, int, int]:
            moves = stream.frames != 1 and stream.codec_context.name not in _PICTURE_CODECS
            flags = int(stream.disposition)
            chosen = bool(flags & _DEFAULT) and not flags & _FOR_THE_IMPAIRED
            if stream is moving[0] and _PREVIEW * _pixels(stream) <= largest:
                chosen = False
            bits = stream.codec_context.bit_rate or 0
            return moves, chosen, _pixels(stream), bits, stream.frames

        return max(decodable, key=merit)  # the first of equals


# AV_DISPOSITION_* of libavformat/avformat.h: PyAV names them only in its later releases.
_DEFAULT = 0x1
_FOR_THE_IMPAIRED = 0x80 | 0x100  # hearing, visual
_PICTURE_CODECS = ("mjpeg", "png", "bmp", "tiff", "webp")
_PICTURES = 0x400 | 0x800 | 0x100000  # attached_pic, timed_thumbnails, still_image


def _is_picture(stream: Any) -> bool:
    return bool(int(stream.disposition) & _PICTURES)


def _pixels(stream: Any) -> int:
    context = stream.codec_context
    return context.width * context.height if context is not None else 0


def expected(stream: Any) -> Timestamps:
    """What the container of a stream lets one expect of its timestamps."""
    container = stream.container
    stated = None
    if stream.duration is None and container.duration:
        stated = Fraction(container.duration, 1_000_000)  # matroska's header
    elif stream.duration and stream.frames:  # without a table of frames it may be an estimate
        stated = stream.duration * stream.time_base
    return Timestamps(
        step=1 / Fraction(stream.average_rate or stream.guessed_rate or 25),
        discontinuous=bool(int(container.format.flags) & _TS_DISCONT),
        stated=stated,
    )
