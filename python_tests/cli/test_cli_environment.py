"""`sparrow env`: versions and where they stand, backends, build, settings."""

from __future__ import annotations

import json
import sys
from importlib import metadata

import pytest

from sparrow_kernels.cli import environment, main
from sparrow_kernels.releases import TESTED, standing


def test_json_tells_versions_backends_and_build(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from sparrow_kernels.ops import native

    monkeypatch.setenv("SPARROW_SOMETHING", "7")
    assert main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["devices"][0]["device"] == "cpu"
    assert facts["settings"]["SPARROW_SOMETHING"] == "7"
    assert facts["tested"] == {
        package: standing(package, facts["versions"][package]) for package in TESTED
    }
    reference = facts["backends"]["reference"]
    assert "tree_attention" in reference["available"] and not reference["unavailable"]
    built = native.unavailable() is None
    assert ("accept_tree" in facts["backends"]["native"]["available"]) == built


FIRST, LAST = TESTED["transformers"]


@pytest.mark.parametrize(
    "version, place",
    [("4.57.3", "older than"), (f"{LAST}.7", "inside"), ("99.0.0.dev0", "newer than")],
)
def test_lines_place_a_version(
    version: str,
    place: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environment.metadata, "version", lambda _: version)
    assert main(["env"]) == 0
    line = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("transformers")
    )
    assert line == f"transformers     {version} ({place} the tested range {FIRST} … {LAST})"


def test_what_is_not_installed_has_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(environment.metadata, "version", missing)
    assert environment.describe()["tested"]["transformers"] is None


def test_lines_give_the_reason_of_a_missing_backend(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparrow_kernels.ops import accept  # noqa: F401  (defines its ops)
    from sparrow_kernels.ops.registry import defined_ops

    implementation = defined_ops()["accept_tree"].implementations["native"]
    monkeypatch.setattr(implementation, "available", lambda: "built without native code")
    assert main(["env"]) == 0
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if line.startswith("native "))
    assert line.endswith("built without native code")


@pytest.mark.parametrize(
    "torch, torchvision, command",
    [
        ("2.13.0+cpu", "0.28.0+cpu", None),
        ("2.13.0", "0.28.1", None),
        ("2.13.0", None, None),
        ("2.13.0", "0.27.0", "--no-deps 'torchvision==0.28.*'"),
        (
            "2.11.0+cpu",
            "0.28.0",
            "--no-deps --index-url https://download.pytorch.org/whl/cpu 'torchvision==0.26.*'",
        ),
        ("2.13.0a0+git1234", "0.27.1", "--no-deps 'torchvision==0.28.*'"),
        (
            "2.13.0+cpu",
            "0.28.0+cu130",
            "--no-deps --force-reinstall --index-url https://download.pytorch.org/whl/cpu"
            " 'torchvision==0.28.*'",
        ),
    ],
)
def test_a_torchvision_that_does_not_fit_comes_with_what_mends_it(
    torch: str,
    torchvision: str | None,
    command: str | None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    found = environment._torchvision_fix({"torch": torch, "torchvision": torchvision})
    assert found == (command and f"pip install {command}")
    described = environment.describe() | {"torchvision_fix": found, "clips": "an error, " * 99}
    monkeypatch.setattr(environment, "describe", lambda: described)
    assert main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.endswith(command or "no such line")] == (
        [f"{'':<16} the torchvision for this torch: {found}"] if command else []
    )


def test_what_a_build_has_none_of_is_said_in_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = {"cuda_architectures": [], "cuda_compiler": "", "built_with_cuda": False}
    monkeypatch.setattr(environment, "_native_build", lambda: build)
    assert main(["env"]) == 0
    shown = capsys.readouterr().out
    assert "native build     cuda_architectures none: built for CPUs alone\n" in shown
    assert "native build     cuda_compiler none\n" in shown
    assert "native build     built_with_cuda no\n" in shown
    build["cuda_architectures"] = ["80", "90"]
    assert main(["env"]) == 0
    assert "native build     cuda_architectures 80, 90\n" in capsys.readouterr().out
