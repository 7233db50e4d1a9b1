"""Folders of drafts that are broken, cut short or not there: one line each, and nothing of theirs
runs."""

from __future__ import annotations

import json
import os
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from broken_drafts import FACTS, changed, converted, refusal
from decoding_cases import random_pair
from draft_files import FORMATS, write
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import save_file

from sparrow_kernels import load_draft
from sparrow_kernels.models.drafts.files import read_files
from sparrow_kernels.models.drafts.load import convert

read_pickled = partial(read_files, pickled=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole draft of SpecForge."""
    return write(changed(), tmp_path / "draft")


def as_pickle(folder: Path, held: Any, file: str = "pytorch_model.bin") -> Path:
    """`folder` with its weights in a pickle, which may hold anything; bytes are written as such."""
    (folder / "model.safetensors").unlink()
    if isinstance(held, bytes):
        (folder / file).write_bytes(held)
    else:
        torch.save(held, folder / file)
    return folder


class TestSafetensors:
    @pytest.mark.parametrize("kept", [0, 4, 100, -1])
    def test_a_file_cut_short(self, folder: Path, kept: int) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:kept])
        message = refusal(read_files, folder)
        assert f"{file} must be a whole safetensors file" in message and "fetch it again" in message

    @pytest.mark.parametrize("held", [b"version https://git-lfs\n" * 3, b"\x80\x02}q\x00."])
    def test_a_file_of_something_else(self, folder: Path, held: bytes) -> None:
        (folder / "model.safetensors").write_bytes(held)
        assert "must be a whole safetensors file" in refusal(read_files, folder)

    def test_shards_are_read_as_one(self, folder: Path, tmp_path: Path) -> None:
        whole = read_files(folder)
        shards = write(changed(), tmp_path / "shards")
        (shards / "model.safetensors").unlink()
        weights: dict[str, str] = {}
        for number in (0, 1):
            part = dict(list(whole.tensors.items())[number::2])
            save_file(part, shards / f"model-{number}.safetensors")
            weights |= dict.fromkeys(part, f"model-{number}.safetensors")
        index = {"metadata": {}, "weight_map": weights}
        (shards / "model.safetensors.index.json").write_text(json.dumps(index))
        expected = convert(whole, FACTS).state_dict()
        found = convert(read_files(shards), FACTS).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        (shards / "model-1.safetensors").unlink()
        message = refusal(read_files, shards)
        assert "model.safetensors.index.json" in message and "model-1.safetensors" in message

    @pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": 5}', '{"weight_map": [1]}'])
    def test_an_index_that_is_none(self, folder: Path, index: str) -> None:
        (folder / "model.safetensors.index.json").write_text(index)
        assert "index.json must name weights and their files" in refusal(read_files, folder)


class Planted:
    """What a pickle of it does when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


class TestPickles:
    @pytest.mark.parametrize("file", ["pytorch_model.bin", "draft.pt", "draft.pth"])
    def test_load_draft_names_the_way_on(self, folder: Path, file: str) -> None:
        as_pickle(folder, changed().tensors, file)
        message = refusal(load_draft, folder, random_pair()[0])
        assert file in message and "sparrow draft convert" in message

    @pytest.mark.parametrize("name", FORMATS)
    def test_one_of_tensors_is_what_safetensors_are(self, tmp_path: Path, name: str) -> None:
        files = changed(name)
        expected = converted(tmp_path / "a", files).state_dict()
        pickled = as_pickle(write(files, tmp_path / "b"), files.tensors)
        found = convert(read_pickled(pickled), FACTS).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)

    @pytest.mark.parametrize("protocol", [None, 2])
    def test_code_in_one_does_not_run(self, folder: Path, tmp_path: Path, protocol: Any) -> None:
        planted = tmp_path / "planted"
        held: Any = {"fc.bias": Planted(planted)}
        as_pickle(folder, pickle.dumps(held, protocol) if protocol else held)
        message = refusal(read_pickled, folder)
        assert "pytorch_model.bin must hold tensors alone" in message and "mkdir" in message
        assert "weights_only" not in message  # torch advises to run it
        assert not planted.exists()
        pickle.loads(pickle.dumps(held))
        assert planted.is_dir()  # it would have run

    @pytest.mark.parametrize(
        "held, got",
        [
            ([torch.ones(2)], "got list"),
            (torch.ones(2), "got Tensor"),
            ({"state_dict": {"fc.weight": torch.ones(2)}}, "got dict for 'state_dict'"),
            ({"fc.weight": torch.ones(2), "step": 3}, "got int for 'step'"),
            ({0: torch.ones(2)}, "got Tensor for 0"),
        ],
    )
    def test_one_of_something_else(self, folder: Path, held: Any, got: str) -> None:
        message = refusal(read_pickled, as_pickle(folder, held))
        assert "must hold tensors by name" in message and got in message

    @pytest.mark.parametrize("kept", [0, 1, 4, 9, 60])
    @pytest.mark.parametrize("zipped", [True, False])
    def test_one_cut_short(self, folder: Path, kept: int, zipped: bool) -> None:
        held = pickle.dumps({"a": 1.5, "bcd": [1, 2, "three"], "e": list(range(20))}, 2)
        if zipped:
            torch.save(changed().tensors, folder / "whole")
            held = (folder / "whole").read_bytes()
        message = refusal(read_pickled, as_pickle(folder, held[:kept]))
        assert "pytorch_model.bin must hold tensors alone" in message


class TestFolders:
    @pytest.mark.parametrize(
        "config, said",
        [
            ("[1]", "must hold an object, got list"),
            ("null", "must hold an object, got NoneType"),
            ("{'a': 1}", "must be JSON"),
            ("", "must be JSON"),
            (b"\xff\xfe", "must be JSON"),
        ],
    )
    def test_a_config_that_is_none(self, folder: Path, config: Any, said: str) -> None:
        file = folder / "config.json"
        file.write_bytes(config if isinstance(config, bytes) else config.encode())
        assert f"{file} {said}" in refusal(read_files, folder)

    def test_no_config(self, folder: Path) -> None:
        (folder / "config.json").unlink()
        assert f"with a config.json, got {folder}" in refusal(read_files, folder)

    def test_no_weights(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        assert f"with weights, got {folder}" in refusal(read_files, folder)

    def test_a_file(self, folder: Path) -> None:
        file = folder / "model.safetensors"
        assert f"got {file}, which is a file" in refusal(read_files, file)

    @pytest.mark.parametrize("path", ["/no/such", "no_such", "./a b/c", ""])
    def test_nothing(self, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "config.json").write_text("{}")
        expected = "with weights, got" if path == "" else f"got {path}, which is not there"
        assert expected in refusal(read_files, path)


class TestHub:
    @pytest.fixture
    def asked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        """A hub with one repository, which holds a draft, and another in its folder `vl`."""
        asked: list[dict[str, Any]] = []
        write(changed(), tmp_path / "hub")
        write(changed("eagle3_1"), tmp_path / "hub" / "vl")

        def snapshot_download(name: str, **filters: Any) -> str:
            asked.append({"name": name, **filters})
            if name != "owner/name":
                raise RuntimeError(f"404 Client Error for {name}\nrequest id 7")
            return str(tmp_path / "hub")

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        monkeypatch.chdir(tmp_path)
        return asked

    @pytest.mark.parametrize(
        "name, below, fetched",
        [
            ("owner/name", "", {"config.json", "model.safetensors", "m.safetensors.index.json"}),
            ("owner/name/vl", "vl", {"vl/config.json", "vl/model.safetensors"}),
            ("owner/name/vl/", "vl", {"vl/config.json", "vl/model.safetensors"}),
        ],
    )
    def test_a_name_fetches_what_is_needed(
        self, asked: list[dict[str, Any]], name: str, below: str, fetched: set[str]
    ) -> None:
        there = ["config.json", "model.safetensors", "m.safetensors.index.json", "vl/config.json"]
        there += ["vl/model.safetensors", "vl/old/model.safetensors", "code.py", "weights.bin"]
        files = read_files(name)
        assert files.where == name and (files.folder / "config.json").is_file()
        assert ("fc_norm.0.weight" in files.tensors) == (below == "vl")
        ((repository, *_),) = (list(one.values()) for one in asked)
        assert repository == "owner/name"
        filters = {key: value for key, value in asked[0].items() if key != "name"}
        assert set(filter_repo_objects(there, **filters)) == fetched

    def test_pickles_are_fetched_to_be_converted_alone(self, asked: list[dict[str, Any]]) -> None:
        there = ["weights.bin", "weights.pt", "weights.pth"]
        for pickled in (False, True):
            read_files("owner/name", pickled=pickled)
            filters = {key: value for key, value in asked[-1].items() if key != "name"}
            assert list(filter_repo_objects(there, **filters)) == (there if pickled else [])

    def test_what_the_hub_says_is_one_line(self, asked: list[dict[str, Any]]) -> None:
        message = refusal(load_draft, "owner/other", random_pair()[0])
        assert "got owner/other, which is no directory here" in message
        assert message.endswith("the hub says: 404 Client Error for owner/other")

    def test_a_folder_that_the_repository_lacks(self, asked: list[dict[str, Any]]) -> None:
        message = refusal(read_files, "owner/name/none")
        assert "config.json" in message and "none" in message
