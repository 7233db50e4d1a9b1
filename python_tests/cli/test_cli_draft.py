"""`sparrow draft`: what a draft is, the same draft in our own format, and tries of settings."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from decoding_cases import random_pair
from draft_files import FORMATS, Sizes, draft_files, write
from generate_cases import one_line_error
from transformers import AutoConfig

from sparrow_kernels import load_draft
from sparrow_kernels.cli import main
from sparrow_kernels.models.drafts import texts
from sparrow_kernels.models.pair import EMBEDDED_WEIGHTS

LAYERS = 6


@cache
def pair() -> tuple[Any, Any, Any]:
    return random_pair(layers=LAYERS)


def theirs(folder: Path, name: str, **config: Any) -> Path:
    """A draft of format `name` with random weights, in `folder`."""
    text = pair()[0].config.get_text_config()
    sizes = Sizes(text.hidden_size, 96, 4, 2, 32, text.vocab_size, 60, LAYERS, rope_theta=1e6)
    files = draft_files(name, sizes)
    files.config.update(config)
    return write(files, folder)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("target")
    model, _, processor = pair()
    model.save_pretrained(root)
    processor.save_pretrained(root)
    return str(root)


@pytest.fixture(autouse=True)
def nothing_printed_yet(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()  # transformers' bars while saving


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command prints that goes well and has nothing to warn of."""
    assert main(["draft", *words]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def described(shown: str) -> dict[str, str]:
    """A table's values by setting."""
    lines = [line.split(maxsplit=1) for line in shown.splitlines()]
    assert lines[0][0] == "setting"
    return dict(lines[1:])


class TestInspect:
    @pytest.mark.parametrize("name", FORMATS)
    @pytest.mark.parametrize("with_target", [True, False])
    def test_a_table_and_an_object_say_the_same(
        self,
        name: str,
        with_target: bool,
        target: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        words = ["inspect", str(theirs(tmp_path, name))]
        words += ["--target", target] if with_target else []
        table = described(answer(capsys, *words))
        found = json.loads(answer(capsys, *words, "--json"))
        settings = found["settings"]
        assert table.pop("format").split() == [found["format"], "keys"]
        assert table.keys() == settings.keys()
        for setting, said in settings.items():
            assert table[setting].endswith(said["from"]), setting
        assert found["format"] == name.partition("_")[0].replace("eagle3", found["format"])
        assert settings["hidden_size"]["value"] == 128
        assert settings["target_layers"]["value"] == (LAYERS if with_target else 0)
        expected = load_draft(tmp_path, pair()[0], probe=False).spec
        if with_target:
            assert settings == {
                each.name: {"value": each.value, "from": each.source} for each in expected
            }

    def test_what_the_caller_says(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["inspect", str(theirs(tmp_path, "specforge")), "--json", "--rope-theta", "5e5"]
        words += ["--layer-ids", "1", "2", "4", "--feeds-normed", "yes"]
        settings = json.loads(answer(capsys, *words))["settings"]
        for name, value in (("rope_theta", 5e5), ("layer_ids", [1, 2, 4]), ("feeds_normed", True)):
            assert settings[name] == {"value": value, "from": "caller"}

    def test_our_own_is_held_against_the_target_too(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        draft, theirs = EMBEDDED_WEIGHTS / "draft", EMBEDDED_WEIGHTS / "target"
        assert main(["draft", "inspect", str(draft), "--target", str(theirs)]) == 0
        other = AutoConfig.from_pretrained(theirs)
        other.get_text_config().hidden_size = 256
        other.save_pretrained(tmp_path)
        capsys.readouterr()
        assert main(["draft", "inspect", str(draft), "--target", str(tmp_path)]) == 1
        assert "hidden size 128, target has 256" in one_line_error(capsys)

    def test_what_is_let_pass_is_a_line(
        self, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = theirs(tmp_path, "eagle2", hidden_act="gelu", num_hidden_layers=40)
        words = ["draft", "inspect", str(folder), "--target", target]
        assert main(words) == 1
        assert "must have silu in its MLP, got gelu" in one_line_error(capsys)
        assert main([*words, "--lenient"]) == 0
        captured = capsys.readouterr()
        assert described(captured.out)["format"].startswith("eagle2")
        layers, act = captured.err.splitlines()
        assert layers.startswith(f"sparrow: warning: draft {folder}: config.json says 40 layers")
        assert act == f"sparrow: warning: draft {folder}: must have silu in its MLP, got gelu"


class TestConvert:
    @pytest.mark.parametrize("name", FORMATS)
    def test_the_draft_stays_what_it_was(
        self, name: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder, out = theirs(tmp_path / "theirs", name), tmp_path / "new" / "ours"
        said = answer(capsys, "convert", str(folder), "--target", target, "--out", str(out))
        assert said.startswith(f"{out}: a draft of format ") and "pickled" not in said
        assert sorted(file.name for file in out.iterdir()) == ["config.json", "model.safetensors"]
        before = load_draft(folder, pair()[0], probe=False)
        after = load_draft(out, pair()[0])
        assert before.state_dict().keys() == after.state_dict().keys()
        for key, value in before.state_dict().items():
            assert torch.equal(value, after.state_dict()[key])
        assert after.spec == before.spec
        capsys.readouterr()  # transformers' bars while loading
        assert answer(capsys, "inspect", str(out)) == f"{before.spec}\n"

    def test_what_was_pickled_is_said(
        self, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from safetensors.torch import load_file

        folder, out = theirs(tmp_path / "theirs", "eagle2"), tmp_path / "ours"
        expected = load_draft(folder, pair()[0], probe=False).state_dict()
        file = folder / "model.safetensors"
        torch.save(load_file(file), folder / "pytorch_model.bin")
        file.unlink()
        assert main(["draft", "probe", str(folder), "--target", target]) == 1
        assert "sparrow draft convert" in one_line_error(capsys)
        said = answer(capsys, "convert", str(folder), "--target", target, "--out", str(out))
        first, second = said.splitlines()
        assert first == f"{folder} was pickled: its tensors were read, and nothing else of it"
        assert second.startswith(f"{out}: a draft of format eagle2")
        found = load_draft(out, pair()[0]).state_dict()
        assert all(torch.equal(found[key], expected[key]) for key in expected)

    def test_refusals(
        self, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder, out = theirs(tmp_path / "theirs", "specforge"), tmp_path / "ours"
        file = tmp_path / "file"
        file.write_text("")

        def refused(draft: Path, out: Path, *more: str, status: int = 1) -> str:
            words = ["convert", str(draft), "--target", target, "--out", str(out), *more]
            assert main(["draft", *words]) == status
            return one_line_error(capsys)

        before = {each: each.read_bytes() for each in folder.iterdir()}
        said = f"--out must be a folder, got {file}, which is a file"
        assert said in refused(folder, file, status=2)
        for where, whose in ((folder, "draft"), (Path(target), "target")):
            assert f"which is the {whose}'s own" in refused(folder, where, "--force", status=2)
        assert "layer_ids must be 3 of 0 to 6" in refused(folder, out, "--layer-ids", "2", "3")
        assert "rope_theta must be a number above 0" in refused(folder, out, "--rope-theta", "0")
        assert "which is not there" in refused(tmp_path / "none", out)
        assert not out.exists()
        assert {each: each.read_bytes() for each in folder.iterdir()} == before
        answer(capsys, "convert", str(folder), "--target", target, "--out", str(out))
        assert f"got {out}, which holds a model (--force" in refused(folder, out, status=2)
        assert (
            main(
                ["draft", "convert", str(folder), "--target", target, "--out", str(out), "--force"]
            )
            == 0
        )
        capsys.readouterr()
        assert "of another format, got our own" in refused(out, tmp_path / "again")
        assert not (tmp_path / "again").exists()


class TestProbe:
    @pytest.fixture(autouse=True)
    def few_words(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(texts, "TEXTS", 2)
        monkeypatch.setattr(texts, "TOKENS", 24)

    @pytest.mark.parametrize("name", ["specforge", "eagle2"])
    def test_of_a_random_draft_nothing_is_found(
        self, name: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["probe", str(theirs(tmp_path, name)), "--target", target]
        table = answer(capsys, *words).splitlines()
        assert table[-1].startswith("none: with no setting does the draft agree")
        assert not any("stands out" in line or "load_draft" in line for line in table)
        found = json.loads(answer(capsys, *words, "--json"))
        assert (found["knows"], found["better"]) == (False, {})
        assert table[0].startswith(f"{found['tokens']} tokens of the target's own")
        names = {"rope_theta", "state_first"}
        if name == "specforge":
            names |= {"layer_ids", "feeds_normed", "norm_before_residual"}
        assert found["settings"].keys() == names
        for setting, said in found["settings"].items():
            assert said["verdict"] == "none"
            assert [each["loaded"] for each in said["tried"]].count(True) == 1
            row = table.index(next(line for line in table if line.startswith(f"{setting} ")))
            rows = table[row + 1 : row + 1 + len(said["tried"])]
            for line, tried in zip(rows, said["tried"], strict=True):
                assert line.startswith("*") == tried["loaded"]
                assert line.split()[-1] == f"{tried['nats']:.3f}"

    def test_what_is_loaded_is_what_was_asked_for(
        self, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["probe", str(theirs(tmp_path, "specforge")), "--target", target, "--json"]
        settings = json.loads(answer(capsys, *words, "--rope-theta", "5e5"))["settings"]
        tried = {each["value"]: each["loaded"] for each in settings["rope_theta"]["tried"]}
        assert tried == {1e4: False, 5e5: True, 1e6: False, 5e6: False}


class TestWords:
    @pytest.mark.parametrize("action", ["inspect", "convert", "probe"])
    def test_each_action_has_a_help(self, action: str, capsys: pytest.CaptureFixture[str]) -> None:
        shown = answer(capsys, action, "--help")
        assert shown.startswith(f"usage: sparrow draft {action} ")
        options = ("--target", "--layer-ids", "--rope-theta", "--state-first", "--lenient")
        assert all(option in shown for option in options)
        assert ("--out" in shown, "--json" in shown) == (action == "convert", action != "convert")

    @pytest.mark.parametrize(
        "words, said",
        [
            ([], "required: ACTION"),
            (["show", "d"], "invalid choice: 'show'"),
            (["inspect"], "required: PATH"),
            (["convert", "d", "--out", "o"], "required: --target"),
            (["convert", "d", "--target", "t"], "required: --out"),
            (["inspect", "d", "--layer-ids", "x"], "invalid int value: 'x'"),
            (["probe", "d", "--state-first", "maybe"], "invalid choice: 'maybe'"),
            (["probe", "d", "--out", "o"], "unrecognized arguments: --out"),
        ],
    )
    def test_a_wrong_command_line_is_status_2(
        self, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["draft", *words]) == 2
        assert said in one_line_error(capsys)

    @pytest.mark.parametrize("action", ["inspect", "probe"])
    def test_what_is_not_there(
        self, action: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        none = str(tmp_path / "none")
        assert main(["draft", action, none, "--target", target]) == 1
        assert f"got {none}, which is not there" in one_line_error(capsys)
        assert main(["draft", action, str(theirs(tmp_path, "eagle2")), "--target", none]) == 1
        assert f"got {none}: there is no such folder" in one_line_error(capsys)

    def test_our_own_format_says_it_itself(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pair()[1].save_pretrained(tmp_path)
        capsys.readouterr()
        words = ["inspect", str(tmp_path)]
        assert described(answer(capsys, *words))["format"].startswith("sparrow_kernels")
        assert main(["draft", *words, "--layer-ids", "1"]) == 1
        assert "layer_ids and settings must be left out" in one_line_error(capsys)
