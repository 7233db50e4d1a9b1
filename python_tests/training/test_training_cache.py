"""States on disk: the same rows, and whatever happens to the files a run that goes on."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from dialogue_cases import clip_dialogue, text_dialogue, write_clip, write_lines
from family_cases import tiny
from torch import Tensor

from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.drafting.modes import MODES
from sparrow_kernels.drafting.text_rows import TextRows
from sparrow_kernels.training.data import cache as cache_module
from sparrow_kernels.training.data.cache import StateCache, weights_mark
from sparrow_kernels.training.data.dialogue_rows import DialogueRows
from sparrow_kernels.training.data.dialogues import DataError, read_dialogues
from sparrow_kernels.training.data.encoding import Encoder

GIB = 2.0**30


class Cached:
    """Rows of three dialogues, with a cache between."""

    def __init__(self, folder: Path, mode: str = "vispec") -> None:
        self.target, processor = tiny("qwen2_5_vl")
        write_clip(folder)
        lines = [text_dialogue(1), clip_dialogue(), text_dialogue(2, words=30)]
        self.dialogues = read_dialogues(write_lines(folder / "data.jsonl", lines))
        self.encoder = Encoder(self.target, processor)
        settings = MODES[mode].settings_for(3)
        self.rules = SparrowDraft.for_target(self.target, **settings).config.row_rules()
        self.folder = folder / "states"
        self.warnings: list[str] = []

    def rows(self, most: float = GIB, about: str = "this target") -> DialogueRows:
        """A source with a cache of its own in the folder."""
        cache = StateCache(self.folder, most, about, self.warnings.append)
        return DialogueRows(self.target, self.encoder, self.dialogues, self.rules, cache=cache)

    @property
    def shards(self) -> list[Path]:
        """The oldest first."""
        found = self.folder.glob("*/*.safetensors")
        return sorted(found, key=lambda path: path.stat().st_mtime_ns)


def assert_same(ours: TextRows | None, theirs: TextRows | None) -> None:
    assert ours is not None and theirs is not None
    assert ours.clip_runs == theirs.clip_runs
    for name, a, b in zip(TextRows._fields[:-1], ours, theirs, strict=False):
        assert (a is None and b is None) or torch.equal(a, b), name


@pytest.mark.parametrize("mode", ["sparrow", "eagle2", "msd", "vispec"])
def test_kept_rows_are_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    made = Cached(tmp_path, mode)
    plain = DialogueRows(made.target, made.encoder, made.dialogues, made.rules)
    first, second = made.rows(), made.rows()
    for number in range(3):
        assert_same(first.rows(number), plain.rows(number))
    assert len(made.shards) == 3
    monkeypatch.setattr(Encoder, "__call__", lambda *_: pytest.fail("the target ran again"))
    for number in range(3):
        kept = second.rows(number)
        monkeypatch.undo()
        assert_same(kept, plain.rows(number))
        monkeypatch.setattr(Encoder, "__call__", lambda *_: pytest.fail("the target ran again"))


def test_shards_of_another_target_line_or_clip_are_not_read(tmp_path: Path) -> None:
    made = Cached(tmp_path)
    made.rows().rows(0)
    made.rows(about="another").rows(0)
    assert len(made.shards) == 2
    source = made.rows()
    made.dialogues[0] = made.dialogues[2]
    assert_same(source.rows(0), made.rows().rows(2))
    assert len(made.shards) == 3
    before = made.rows().rows(1)
    write_clip(tmp_path, frames=8)
    after = made.rows().rows(1)
    assert before is not None and after is not None and len(made.shards) == 5
    assert after.clip is not None and before.clip is not None
    assert after.clip.shape[1] > before.clip.shape[1]
    assert made.warnings == []


def test_a_clip_that_is_gone_is_told_of_its_line(tmp_path: Path) -> None:
    made = Cached(tmp_path)
    source = made.rows()
    source.rows(1)
    (tmp_path / "clip.mp4").unlink()
    with pytest.raises(DataError, match=r"data.jsonl:2: .*clip.mp4 is no longer there"):
        source.rows(1)


def test_a_folder_that_was_moved_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Cached(tmp_path)
    made.rows().rows(1)
    monkeypatch.chdir(tmp_path)
    made.dialogues = read_dialogues("data.jsonl")
    monkeypatch.setattr(Encoder, "__call__", lambda *_: pytest.fail("the target ran again"))
    assert made.rows().rows(1) is not None


def test_another_checkpoint_has_another_mark() -> None:
    torch.manual_seed(0)
    one = torch.nn.Linear(30, 7)
    mark = weights_mark(one)
    assert weights_mark(one) == mark
    with torch.no_grad():
        one.bias[3] += 1e-3
    assert weights_mark(one) != mark


@pytest.mark.parametrize("damage", [b"", b"\x00" * 40, None], ids=["empty", "zeros", "cut"])
def test_a_damaged_shard_is_named_and_made_again(tmp_path: Path, damage: bytes | None) -> None:
    made = Cached(tmp_path)
    whole = made.rows().rows(1)
    shard = made.shards[0]
    shard.write_bytes(shard.read_bytes()[:-9] if damage is None else damage)
    assert_same(made.rows().rows(1), whole)
    assert len(made.warnings) == 1 and str(shard) in made.warnings[0]
    assert_same(made.rows().rows(1), whole)
    assert len(made.warnings) == 1, "it was written again"


def test_no_more_than_asked_for(tmp_path: Path) -> None:
    made = Cached(tmp_path)
    made.rows().rows(1)
    size = made.shards[0].stat().st_size
    first = made.shards[0].name
    source = made.rows(most=size + 100)
    for number in (0, 2, 1):
        source.rows(number)
    assert [path.name for path in made.shards] == [first]
    made.shards[0].unlink()
    source = StateCache(made.folder, 2 * size, "this target", made.warnings.append, writers=4)
    DialogueRows(made.target, made.encoder, made.dialogues, made.rules, cache=source).rows(1)
    assert made.shards == [], "a quarter of it is too little"


def test_what_earlier_runs_keep_takes_room_and_what_is_damaged_gives_it_back(
    tmp_path: Path,
) -> None:
    made = Cached(tmp_path)
    made.rows().rows(0)
    (shard,) = made.shards
    size = shard.stat().st_size
    made.rows(most=1.5 * size, about="another").rows(0)
    assert made.shards == [shard]
    shard.write_bytes(b"\x00" * size)
    made.rows(most=size).rows(0)
    assert made.shards == [shard] and shard.read_bytes().strip(b"\x00"), "it was written again"


def test_a_full_disk_ends_the_keeping_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Cached(tmp_path)
    source = made.rows()
    source.rows(0)

    def full(parts: dict[str, Tensor], path: Any, metadata: Any) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module, "save_file", full)
    plain = DialogueRows(made.target, made.encoder, made.dialogues, made.rules)
    for number in (1, 2):
        assert_same(source.rows(number), plain.rows(number))
    assert len(made.warnings) == 1 and "No space left" in made.warnings[0]
    assert list(made.folder.glob("*/*")) == made.shards and len(made.shards) == 1
