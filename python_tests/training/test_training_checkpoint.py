"""A checkpoint is whole at every moment, whatever signals come while it is written."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from fork_server import SERVER, forked
from slow_save import save_slowly

from sparrow_kernels.training.checkpoint import (
    load_whole,
    signals_wait,
    whole,
    whole_files,
    write_whole,
)


class Saving(NamedTuple):
    """A process in the middle of a save."""

    process: ForkServerProcess
    tell: Connection
    says: Connection

    @classmethod
    def to(cls, path: Path) -> Saving:
        (heard, tell), (says, told) = SERVER.Pipe(duplex=False), SERVER.Pipe(duplex=False)
        found = cls(forked(save_slowly, path, heard, told), tell, says)
        assert found.hears() == "writing"
        return found

    def hears(self) -> str:
        assert self.says.poll(timeout=60)
        return self.says.recv()

    def send_signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def ends(self) -> int | None:
        self.process.join(timeout=60)
        return self.process.exitcode


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_save_ends_before_a_signal_is_heeded_and_so_does_the_save_that_follows(
    number: int, tmp_path: Path
) -> None:
    path = tmp_path / "training.pt"
    saving = Saving.to(path)
    saving.send_signal(number)
    saving.send_signal(number)  # impatient
    saving.tell.send("go on")
    assert saving.hears() == "writing"  # the last save, on the way out
    assert torch.load(path, weights_only=True) == {"step": 2}
    saving.send_signal(number)
    saving.tell.send("go on")
    assert saving.ends() not in (None, 0)
    assert torch.load(path, weights_only=True) == {"step": 3}
    assert os.listdir(tmp_path) == ["training.pt"]


@pytest.mark.slow
def test_what_a_killed_save_left_is_not_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    write_whole({"step": 1}, path)
    saving = Saving.to(path)
    saving.process.kill()
    assert saving.ends() == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 2
    assert load_whole(path) == {"step": 1}
    assert os.listdir(tmp_path) == ["training.pt"]


def test_files_of_one_stem_do_not_share_what_they_are_written_to(tmp_path: Path) -> None:
    with whole(tmp_path / "training.pt") as one, whole(tmp_path / "training.csv") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "training.pt").read_text() == "one"
    assert (tmp_path / "training.csv").read_text() == "other"


def test_a_file_takes_its_place_once_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is there before its bytes is an empty checkpoint after a power cut."""
    done: list[str] = []
    for name in ("fsync", "replace"):
        do = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, n=name, do=do: (done.append(n), do(*args))[1])
    write_whole({"step": 1}, tmp_path / "a.pt")
    assert done == ["fsync", "replace"]
    with whole_files(tmp_path) as fresh:
        (fresh / "b").write_text("1")
        (fresh / "c").write_text("2")
    assert done[2:] == ["fsync", "fsync", "replace", "replace"]


def test_an_error_in_the_middle_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole(path) as fresh:
        fresh.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["training.pt"]


def test_signals_wait_for_the_end_and_handlers_are_as_before() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with signals_wait(), signals_wait():
            signal.raise_signal(signal.SIGTERM)
            assert seen == []
        assert seen == [signal.SIGTERM]
        signal.raise_signal(signal.SIGTERM)
        assert seen == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_outside_of_the_main_thread_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    thread = threading.Thread(target=write_whole, args=({"step": 1}, tmp_path / "a.pt"))
    thread.start()
    thread.join()
    assert load_whole(tmp_path / "a.pt") == {"step": 1}


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    write_whole({"progress": 1, "model": 2}, path)
    with pytest.raises(ValueError, match="must be a checkpoint with progress, draft, got one with"):
        load_whole(path, "progress", "draft")
    assert load_whole(path, "model", "progress") == {"progress": 1, "model": 2}


def test_files_of_a_library_take_their_places_when_all_are_whole(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("old")
    (tmp_path / ".new").mkdir()
    (tmp_path / ".new" / "left.json").write_text("of somebody who was killed")
    with pytest.raises(KeyboardInterrupt), whole_files(tmp_path) as fresh:
        (fresh / "config.json").write_text("new")
        raise KeyboardInterrupt
    assert (tmp_path / "config.json").read_text() == "old"
    with whole_files(tmp_path) as fresh:
        (fresh / "chat_templates").mkdir()  # as a processor of several has
        for name in ("config.json", "model.safetensors", "chat_templates/a.jinja"):
            (fresh / name).write_text("new")
        assert (tmp_path / "config.json").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["chat_templates", "config.json", "model.safetensors"]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3 and {path.read_text() for path in files} == {"new"}
