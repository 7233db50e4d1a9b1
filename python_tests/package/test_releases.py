"""Where a version stands against the releases the package is tested with."""

from __future__ import annotations

import pytest

from sparrow_kernels import releases
from sparrow_kernels.releases import standing

# Not those of today: the rule stays when the range moves.
TRANSFORMERS, TORCH = "5.17 … 5.24", "2.11 … 2.14"


@pytest.mark.parametrize(
    "package, version, said",
    [
        ("transformers", "5.17.0", f"inside the tested range {TRANSFORMERS}"),
        ("transformers", "5.24.99", f"inside the tested range {TRANSFORMERS}"),
        ("transformers", "5.24rc1", f"inside the tested range {TRANSFORMERS}"),
        ("transformers", "5.16.1", f"older than the tested range {TRANSFORMERS}"),
        ("transformers", "4.57", f"older than the tested range {TRANSFORMERS}"),
        ("transformers", "5", f"older than the tested range {TRANSFORMERS}"),
        ("transformers", "5.25.0.dev0", f"newer than the tested range {TRANSFORMERS}"),
        ("transformers", "6.0.0", f"newer than the tested range {TRANSFORMERS}"),
        ("transformers", "main", f"not comparable with the tested range {TRANSFORMERS}"),
        ("torch", "2.13.0+cpu", f"inside the tested range {TORCH}"),
        ("torch", "2.11.0a0+git1234", f"inside the tested range {TORCH}"),
        ("torch", "2.9.1+cu128", f"older than the tested range {TORCH}"),
        ("torch", "2.15.0.dev20270101", f"newer than the tested range {TORCH}"),
    ],
)
def test_the_minor_release_decides(
    package: str, version: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, tested in (("transformers", TRANSFORMERS), ("torch", TORCH)):
        monkeypatch.setitem(releases.TESTED, name, tuple(tested.split(" … ")))
    assert standing(package, version) == said
