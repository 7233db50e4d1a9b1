"""Training data as JSON Lines, the messages of chat templates:

    {"messages": [{"role": "user", "content": [{"type": "video", "path": "cat.mp4"},
                                               {"type": "text", "text": "What happens?"}]},
                  {"role": "assistant", "content": "A cat jumps."}]}

Content is text, or a list of texts, videos and images; paths are relative to the data's folder. A
video may have its own `"fps"`. What is wrong with a line as it is written is found before anything
is loaded; what only a target or a decoder can tell, such as a damaged clip, when its turn comes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROLES = ("system", "user", "assistant", "tool")
_MEDIA = ("video", "image")
_PATH_KEYS = ("path", "video", "image", "url")

# What others write and mean something by: a draft would be trained on other rows than they think.
# Other keys, such as an id, are let pass.
_OF_A_LINE = (
    *("videos", "images", "audios", "system", "conversations"),
    *("tools", "documents", "chat_template_kwargs"),
)
_OF_A_CLIP = (
    *("nframes", "num_frames", "min_frames", "max_frames", "sample_fps", "video_fps"),
    *("min_pixels", "max_pixels", "total_pixels", "resized_height", "resized_width"),
    *("video_start", "video_end", "start", "end"),
)


class DataError(ValueError):
    """A line of data that cannot be used; its message begins with the file and the line."""


@dataclass(frozen=True)
class Dialogue:
    """One line."""

    where: str
    """`FILE:LINE`, for errors."""
    place: int
    """The line."""
    messages: tuple[dict[str, Any], ...]
    """As written, but that content is text or a list of parts, and paths are whole."""

    @property
    def media(self) -> list[dict[str, Any]]:
        """The videos and images, in order."""
        return [part for message in self.messages for part in _media_of(message)]

    @property
    def mark(self) -> str:
        """Says what is in it, wherever its files lie: another text or file has another.

        Raises:
            DataError: a file is gone.
        """
        try:
            return json.dumps([_marked(each) for each in self.messages], sort_keys=True)
        except OSError as error:
            raise self.wrong(f"{error.filename} is no longer there") from error

    @property
    def prompt(self) -> Dialogue:
        """What comes before the assistant's last turn."""
        answers = [n for n, each in enumerate(self.messages) if each["role"] == "assistant"]
        return Dialogue(self.where, self.place, self.messages[: answers[-1]])

    def wrong(self, what: str) -> DataError:
        """An error about it."""
        return DataError(f"{self.where}: {what}")


def read_dialogues(
    path: str | Path, on_wrong: Callable[[DataError], None] | None = None
) -> list[Dialogue]:
    """The dialogues of a file, empty lines left out.

    Args:
        on_wrong: called for each line that cannot be used, which is then left out; None raises.

    Raises:
        DataError: a line is wrong.
        ValueError: no line is left.
        OSError: the file cannot be read.
    """
    path = Path(path)
    dialogues = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                dialogues.append(_dialogue(f"{path}:{number}", number, line, path.parent))
            except DataError as error:
                if on_wrong is None:
                    raise
                on_wrong(error)
    if not dialogues:
        raise ValueError(f"{path} must hold a dialogue that can be used, got none")
    return dialogues


def _dialogue(where: str, number: int, line: bytes, folder: Path) -> Dialogue:
    def wrong(what: str) -> DataError:
        return DataError(f"{where}: {what}")

    try:
        written = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise wrong(f"must be UTF-8, got byte {line[error.start]:#04x}") from None
    except (ValueError, RecursionError) as error:
        raise wrong(f"must be one JSON object, got {error}") from None
    try:
        json.dumps(written, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise wrong("must be text that UTF-8 can hold, got half of a surrogate pair") from None
    messages = written.get("messages") if isinstance(written, dict) else None
    if not isinstance(messages, list) or not messages:
        raise wrong('must be {"messages": [...]} with a message, got ' + _shown(written))
    if unread := [key for key in _OF_A_LINE if written.get(key)]:
        raise wrong(f"must say all of it in its messages, got {', '.join(unread)} beside them")
    checked = tuple(_message(each, place, folder, wrong) for place, each in enumerate(messages))
    answers = [n for n, each in enumerate(checked) if each["role"] == "assistant"]
    if not answers:
        raise wrong("messages must hold an assistant's turn, got none")
    if answers[0] == 0:
        raise wrong("messages must begin with what the assistant answers, got its turn first")
    last_media = max((n for n, each in enumerate(checked) if _media_of(each)), default=-1)
    if last_media > answers[-1]:
        raise wrong(f"messages[{last_media}] must come before an assistant's turn, got none after")
    return Dialogue(where, number, checked)


def _message(
    message: Any, number: int, folder: Path, wrong: Callable[[str], DataError]
) -> dict[str, Any]:
    name = f"messages[{number}]"
    if not isinstance(message, dict):
        raise wrong(f"{name} must be an object, got {_shown(message)}")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise wrong(f"{name}.role must be one of {', '.join(ROLES)}, got {_shown(role)}")
    if isinstance(content, str):
        parts: Sequence[Any] = [{"type": "text", "text": content}]
    elif isinstance(content, list):
        parts = content
    else:
        raise wrong(f"{name}.content must be text or a list of parts, got {_shown(content)}")
    checked = [
        _part(part, f"{name}.content[{place}]", folder, wrong) for place, part in enumerate(parts)
    ]
    if role == "assistant":
        if any(part["type"] != "text" for part in checked):
            raise wrong(f"{name} must be text, as an assistant's turn, got a clip or an image")
        if not "".join(part["text"] for part in checked).strip():
            raise wrong(f"{name} must say something, as an assistant's turn, got an empty text")
    return {**message, "content": content if isinstance(content, str) else checked}


def _part(part: Any, name: str, folder: Path, wrong: Callable[[str], DataError]) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return part
    if kind not in _MEDIA:
        raise wrong(
            f'{name} must be {{"type": "text", "text": …}}, or of type video or image with a'
            f" path, got {_shown(part)}"
        )
    path = next((part[key] for key in _PATH_KEYS if isinstance(part.get(key), str)), None)
    if path is None:
        raise wrong(f"{name} must name its path, got {_shown(part)}")
    found = folder / path
    if "\0" in path or not found.is_file():
        raise wrong(f"{name} must be a file that is there, got {path!r}")
    if unread := [key for key in _OF_A_CLIP if part.get(key) is not None]:
        raise wrong(
            f"{name} must leave out {', '.join(unread)}, which is not read (cut the clip itself;"
            " fps is a clip's own, pixels are the processor's)"
        )
    fps = part.get("fps")
    is_rate = isinstance(fps, (int, float)) and not isinstance(fps, bool) and 0 < fps < 1e4
    if fps is not None and not is_rate:
        raise wrong(f"{name}.fps must be a rate above 0, got {_shown(fps)}")
    return {"type": kind, "path": str(found), **({} if fps is None else {"fps": fps})}


def _marked(message: dict[str, Any]) -> dict[str, Any]:
    """A message with what its files are in the place of where they are."""
    if isinstance(message["content"], str):
        return message
    parts = []
    for part in message["content"]:
        if "path" in part:
            file = os.stat(part["path"])
            part = {**part, "path": [Path(part["path"]).name, file.st_size, file.st_mtime_ns]}
        parts.append(part)
    return {**message, "content": parts}


def _media_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    parts = [] if isinstance(content, str) else content
    return [part for part in parts if part["type"] in _MEDIA]


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:59]}…"
