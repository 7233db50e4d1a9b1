"""What `make test-releases` puts before the environment's packages, and what it says at the end."""

from __future__ import annotations

import json
import subprocess
from importlib import metadata
from pathlib import Path

import on_releases
import pytest


def item(name: str, version: str) -> dict:
    """One package of pip's installation report."""
    hashes = {"sha256": f"{name}-{version}"}
    return {
        "metadata": {"name": name, "version": version},
        "download_info": {"archive_info": {"hashes": hashes}},
    }


@pytest.fixture
def overlays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(on_releases, "OVERLAYS", tmp_path)
    return tmp_path


def answer(monkeypatch: pytest.MonkeyPatch, *items: dict) -> list[list[str]]:
    """A pip that resolves to `items` and installs empty folders; its calls."""
    calls = []

    def pip(*arguments: str | Path) -> None:
        calls.append([str(argument) for argument in arguments])
        if "--report" in arguments:
            report = Path(arguments[arguments.index("--report") + 1])
            report.write_text(json.dumps({"install": items}))
        else:
            Path(arguments[arguments.index("--target") + 1]).mkdir()

    monkeypatch.setattr(on_releases, "pip", pip)
    return calls


def test_only_what_differs_is_laid_over_the_environment(
    overlays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = item("numpy", metadata.version("numpy"))
    calls = answer(monkeypatch, item("transformers", "5.20.2"), same, item("unheard-of", "1"))
    folder = on_releases.overlay("5.20.2")
    assert folder is not None and folder.is_dir() and folder.parent == overlays
    assert Path(f"{folder}.txt").read_text().splitlines() == [
        "transformers==5.20.2 --hash=sha256:transformers-5.20.2",
        "unheard-of==1 --hash=sha256:unheard-of-1",
    ]
    assert calls[0][-1] == "transformers==5.20.2"
    assert "--no-deps" in calls[1] and "--require-hashes" in calls[1]

    assert on_releases.overlay("5.20.2") == folder
    assert len(calls) == 2, "neither asked nor installed again"


def test_the_newest_is_asked_for_each_time(overlays: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, item("transformers", "5.98.0"))
    first = on_releases.overlay("newest")
    answer(monkeypatch, item("transformers", "5.99.0"))
    assert first != on_releases.overlay("newest")


@pytest.mark.parametrize("package", ["torch", "nvidia-cublas"])
def test_torch_is_never_brought_along(
    overlays: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    answer(monkeypatch, item("transformers", "5.20.2"), item(package, "99"))
    line, fine = on_releases.run("5.20.2", [])
    assert line == f"not run: it asks for {package} 99, and the installed torch must stay"
    assert not fine


@pytest.mark.parametrize(("name", "fine"), [("newest", True), ("5.20.2", False)])
def test_without_a_package_index_only_the_newest_may_stay_unknown(
    overlays: Path, monkeypatch: pytest.MonkeyPatch, name: str, fine: bool
) -> None:
    nowhere = ["--index-url", "http://127.0.0.1:9/simple", "--retries", "0", "--isolated"]
    monkeypatch.setattr(on_releases, "PIP", [*on_releases.PIP, *nowhere])
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    assert on_releases.run(name, []) == ("not run: the package index cannot be reached", fine)


@pytest.mark.parametrize(("code", "word"), [(0, "passed"), (1, "FAILED"), (5, "FAILED")])
def test_tests_see_the_overlay_and_decide(
    overlays: Path, monkeypatch: pytest.MonkeyPatch, code: int, word: str
) -> None:
    paths = []
    monkeypatch.setattr(on_releases, "overlay", lambda name: overlays)
    monkeypatch.setattr(subprocess, "check_output", lambda *a, **kw: "5.20.2 2.13.0\n")

    def tests(command: list[str], env: dict[str, str], **_: object) -> subprocess.CompletedProcess:
        paths.append(env["PYTHONPATH"])
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(subprocess, "run", tests)
    line, fine = on_releases.run("5.20.2", ["python_tests/video/test_video.py"])
    assert line.startswith(f"transformers 5.20.2 {word} (")
    assert fine == (code == 0)
    assert paths == [str(overlays)]


def test_the_last_lines_are_one_a_release(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {"oldest": ("transformers 5.17.0 FAILED (3 s)", False), "newest": ("passed", True)}
    monkeypatch.setattr(on_releases, "run", lambda name, tests: said[name])
    monkeypatch.setattr("sys.argv", ["on_releases", "oldest", "newest", "--tests", "a"])
    assert on_releases.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["oldest: transformers 5.17.0 FAILED (3 s)", "newest: passed"]
