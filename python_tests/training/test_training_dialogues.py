"""Training data: what is wrong with a line is said with its number, before anything is loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from dialogue_cases import clip, clip_dialogue, said, text_dialogue, write_clip, write_lines

from sparrow_kernels.training.data.dialogues import DataError, read_dialogues

ANSWER = said("assistant", "it is red")


def test_a_file_of_texts_and_clips(tmp_path: Path) -> None:
    write_clip(tmp_path)
    named = {"id": 7, "videos": [], "messages": [said("user", "hi"), ANSWER]}
    lines = [text_dialogue(0), "", clip_dialogue(), named]
    read = read_dialogues(write_lines(tmp_path / "data.jsonl", lines))
    assert [each.where.rpartition(":")[2] for each in read] == ["1", "3", "4"]
    assert read[0].messages == tuple(text_dialogue(0)["messages"]) and read[0].media == []
    assert read[1].media == [{"type": "video", "path": str(tmp_path / "clip.mp4")}]
    assert read[2].prompt.messages == (said("user", "hi"),)


BROKEN: dict[str, tuple[Any, str]] = {
    "no JSON": ("{not", "must be one JSON object"),
    "a number without an end": ('{"messages": ' + "9" * 5000 + "}", "must be one JSON object"),
    "half of a surrogate pair": (
        '{"messages": [{"role": "user", "content": "hi \\ud83d"}]}',
        "must be text that UTF-8 can hold",
    ),
    "a list": ("[1, 2]", r'must be {"messages": \[...\]} with a message, got \[1, 2\]'),
    "no messages": ({"messages": []}, "with a message"),
    "messages of text": ({"messages": "hello"}, "with a message"),
    "a turn of text": ({"messages": ["hi"]}, r"messages\[0\] must be an object, got \"hi\""),
    "no such role": ({"messages": [said("robot", "hi")]}, r"messages\[0\].role must be one of"),
    "no content": (
        {"messages": [{"role": "user"}, ANSWER]},
        r"messages\[0\].content must be text or a list",
    ),
    "no assistant": ({"messages": [said("user", "hi")]}, "must hold an assistant's turn, got none"),
    "nothing asked": ({"messages": [ANSWER]}, "got its turn first"),
    "an empty answer": (
        {"messages": [said("user", "hi"), said("assistant", "  ")]},
        r"messages\[1\] must say something",
    ),
    "an answer with a clip": (
        {"messages": [said("user", "hi"), said("assistant", "see", clip())]},
        r"messages\[1\] must be text",
    ),
    "a clip after the last answer": (
        {"messages": [said("user", "hi"), ANSWER, said("user", clip(), "and?")]},
        r"messages\[2\] must come before an assistant's turn",
    ),
    "no such part": (
        {"messages": [said("user", {"type": "audio", "path": "a"}), ANSWER]},
        r"messages\[0\].content\[0\] must be",
    ),
    "a clip without a path": (
        {"messages": [said("user", {"type": "video"}), ANSWER]},
        "must name its path",
    ),
    "a missing file": (
        {"messages": [said("user", clip("gone.mp4")), ANSWER]},
        "must be a file that is there, got 'gone.mp4'",
    ),
    "a path with a zero byte": (
        {"messages": [said("user", clip("a\0b")), ANSWER]},
        "must be a file that is there",
    ),
    "a rate of zero": (
        {"messages": [said("user", clip(fps=0)), ANSWER]},
        "fps must be a rate above 0, got 0",
    ),
    "a rate that is none": (
        {"messages": [said("user", clip(fps=True)), ANSWER]},
        "fps must be a rate above 0, got true",
    ),
    "a clip that is to be cut": (
        {"messages": [said("user", clip(nframes=8, max_pixels=100)), ANSWER]},
        r"messages\[0\].content\[0\] must leave out nframes, max_pixels, which is not read",
    ),
    "clips beside the messages": (
        {"messages": [said("user", "<video> What?"), ANSWER], "videos": ["clip.mp4"]},
        "must say all of it in its messages, got videos beside them",
    ),
}


def test_a_clip_that_was_written_anew_has_another_mark(tmp_path: Path) -> None:
    """Also where it is as long as the old one."""
    write_clip(tmp_path)
    (dialogue,) = read_dialogues(write_lines(tmp_path / "data.jsonl", [clip_dialogue()]))
    mark, file = dialogue.mark, tmp_path / "clip.mp4"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert dialogue.mark != mark


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_is_named(tmp_path: Path, name: str) -> None:
    write_clip(tmp_path)
    line, message = BROKEN[name]
    path = write_lines(tmp_path / "data.jsonl", [text_dialogue(1), line, text_dialogue(2)])
    with pytest.raises(DataError, match=rf"data\.jsonl:2: .*{message}"):
        read_dialogues(path)
    wrong: list[DataError] = []
    kept = read_dialogues(path, wrong.append)
    assert [each.where.rpartition(":")[2] for each in kept] == ["1", "3"]
    assert len(wrong) == 1 and ":2: " in str(wrong[0])


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"messages": "\xff"}\n')
    with pytest.raises(DataError, match=r"data.jsonl:1: must be UTF-8, got byte 0xff"):
        read_dialogues(path)


def test_a_file_with_nothing_in_it(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "data.jsonl", ["", "{}"])
    with pytest.raises(ValueError, match="must hold a dialogue that can be used, got none"):
        read_dialogues(path, lambda _: None)
    with pytest.raises(FileNotFoundError):
        read_dialogues(tmp_path / "none.jsonl")
