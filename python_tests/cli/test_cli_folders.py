"""Folders of models: what is said of one that cannot be loaded, before anything is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sparrow_kernels.cli import main
from sparrow_kernels.cli.folders import check_target, check_weights

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = ROOT / "sparrow_kernels" / "embedded" / "weights"


def safetensors(file: Path, values: int = 4) -> Path:
    """One tensor of as many bytes."""
    header = {"__metadata__": {"a": "b"}}
    header["w"] = {"dtype": "U8", "shape": [values], "data_offsets": [0, values]}  # type: ignore
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(values))
    return file


def refused(folder: Path) -> str:
    with pytest.raises(ValueError) as error:
        check_target(folder)
    return str(error.value)


def test_what_can_be_loaded_is_let_pass() -> None:
    check_target(None)
    check_target(EMBEDDED / "target")
    check_weights(EMBEDDED / "draft")


def test_a_folder_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    must_be = "--target must be a folder with a model of transformers, got"
    assert refused(Path("mine")) == f"{must_be} mine: there is no such folder"
    (tmp_path / "models").mkdir()
    assert refused(Path("models/mine")) == f"{must_be} models/mine: there is no such folder"
    said = refused(Path("Qwen/Qwen2-VL"))
    assert said.startswith(f"{must_be} Qwen/Qwen2-VL: there is no such folder (a model of the hub")
    assert "hf download Qwen/Qwen2-VL --local-dir Qwen2-VL, then --target Qwen2-VL" in said
    (tmp_path / "file").write_text("")
    assert refused(Path("file")) == f"{must_be} file, which is a file"
    assert refused(Path("models")) == f"{must_be} models without config.json"
    (tmp_path / "models" / "config.json").write_text("{}")
    assert refused(Path("models")) == f"{must_be} models without *.safetensors"
    check_target(Path("models"), weights=False)


def test_weights_that_are_cut_off_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    safetensors(tmp_path / "a.safetensors")
    file = safetensors(tmp_path / "b.safetensors")
    check_target(tmp_path)
    whole = file.read_bytes()
    for size in (0, 4, 20, len(whole) - 1):
        file.write_bytes(whole[:size])
        said = refused(tmp_path)
        assert said.startswith(f"{file} must be a whole safetensors file") and "again)" in said
    assert f"of {len(whole)} bytes, got {len(whole) - 1} " in said
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    assert "got a damaged header" in refused(tmp_path)
    # Which transformers does not read where the file that it looks for is there.
    safetensors(tmp_path / "model.safetensors")
    check_target(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"x": "a.safetensors"}}')
    check_target(tmp_path)
    index.write_text('{"weight_map": {"x": "c.safetensors"}}')
    assert refused(tmp_path) == f"{tmp_path} must hold c.safetensors, which {index.name} names"
    index.write_text("{}")
    assert refused(tmp_path) == f"{index} must say which file holds which weight"


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "CLIP", "Why?"],
        ["evaluate"],
        ["train", "draft"],
        ["draft", "inspect", "d"],
        ["draft", "convert", "d", "--out", "o"],
        ["draft", "probe", "d"],
    ],
    ids=" ".join,
)
def test_every_command_says_so_without_loading_anything(words: list[str], tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_text("")
    words = [str(clip) if word == "CLIP" else word for word in words]
    code = (
        "import sys; from sparrow_kernels.cli import main; status = main()\n"
        "assert 'transformers' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--target", "nowhere"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.endswith("got nowhere: there is no such folder\n")
    assert not (tmp_path / "o").exists() and not (tmp_path / "sparrow-draft").exists()


def test_a_model_in_the_way_of_a_run_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    safetensors(tmp_path / "model.safetensors")
    for role in ("target", "draft"):
        assert main(["train", role, "--out", str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert f"--out must be new, got {tmp_path}, which holds a model (another --out" in said
    mine = ["train", "draft", "--out", str(tmp_path), "--target", str(tmp_path), "--fresh"]
    assert main(mine) == 2
    assert "which is the target's own" in capsys.readouterr().err
