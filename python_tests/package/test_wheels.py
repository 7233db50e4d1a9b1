"""What `make wheel` makes of an environment that a wheel was installed in."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import build_wheels

# Stands for `python` and `sparrow` of that environment.
STAND_IN = """#!{python} -IS
import json, pathlib, sys
name, words, here = pathlib.Path(sys.argv[0]).name, sys.argv[1:], pathlib.Path(sys.argv[0]).parent
if name == "sparrow" and words[0] == "clip":
    place = pathlib.Path(words[1])
    if place.exists() and "--force" not in words:
        sys.exit("clip: it is there")
    place.touch()
elif name == "sparrow" and words[0] == "generate":
    assert pathlib.Path(words[1]).exists()
    print(json.dumps({{"text": "A red square.", "mean_emitted": 5.25}}))
elif name == "sparrow":
    print((here / "env.json").read_text())
elif words[:2] == ["-m", "pip"]:
    (here / "torch").write_text((here / "after").read_text())
else:
    print((here / "torch").read_text())
"""


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("python", "sparrow"):
        (tmp_path / name).write_text(STAND_IN.format(python=sys.executable))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "torch").write_text("2.13.0+cpu")
    (tmp_path / "after").write_text("2.13.0+cpu")
    env = {"backends": {"native": {"available": True}}, "clips": "torch"}
    (tmp_path / "env.json").write_text(json.dumps(env))
    monkeypatch.setattr(build_wheels, "environment", lambda *_: tmp_path / "python")
    monkeypatch.setattr(build_wheels, "WORK", tmp_path)
    return tmp_path


def test_a_wheel_is_tried_again_over_an_earlier_try(scripts: Path) -> None:
    for _ in range(2):
        said = build_wheels.try_out(sys.executable, Path("any.whl"), "torch==2.13.0")
        assert said == "mean_emitted 5.25; clips by torch"


def test_a_try_fails_without_native_ops_and_where_torch_was_replaced(scripts: Path) -> None:
    (scripts / "env.json").write_text('{"backends": {"native": {"available": false}}, "clips": ""}')
    with pytest.raises(SystemExit, match="any.whl has no native ops"):
        build_wheels.try_out(sys.executable, Path("any.whl"), "torch")
    (scripts / "after").write_text("2.13.0")
    with pytest.raises(SystemExit, match=r"any.whl replaced torch 2.13.0\+cpu by 2.13.0"):
        build_wheels.try_out(sys.executable, Path("any.whl"), "torch")
