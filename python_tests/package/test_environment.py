"""The locks: what the package asks for, in releases that were tested, and the same everywhere."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from sparrow_kernels.cli.main import _parser
from sparrow_kernels.releases import TESTED

CHECKOUT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
DEPENDENCIES = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
MAKEFILE = (CHECKOUT / "Makefile").read_text()
SETUP_TORCH = Version(re.findall(r"^TORCH \?= torch==(.+)$", MAKEFILE, re.MULTILINE)[0])
PYTHONS = ("3.11", "3.12", "3.13")
PINS_TORCH = ("torchvision", "torchaudio", "torchcodec", "xformers", "vllm")
NOT_LOCKED = ("torch", "torchvision")  # their builds differ from machine to machine

LOCKS = ("requirements.lock", "requirements-oldest.lock", "requirements-docs.lock")
REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)(?: ; (.+?))? \\$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}(?: \\)?$")


def environment(python: str) -> dict[str, str]:
    """What markers ask for, on Linux."""
    return {
        "extra": "",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }


def locked(lock: str, python: str) -> dict[str, str]:
    """The versions a lock gives a Python, by package."""
    versions: dict[str, str] = {}
    for line in (CHECKOUT / lock).read_text().splitlines():
        found = REQUIREMENT.match(line)
        if found is None:
            continue
        name, version, marker = found.groups()
        needed = Requirement(f"{name}; {marker}" if marker else name).marker
        if needed is None or needed.evaluate(environment(python)):
            assert name not in versions, f"{lock} gives Python {python} two releases of {name}"
            versions[name] = version
    return versions


def needs(texts: list[str], python: str) -> Iterator[Requirement]:
    """Requirements that hold for a Python, those of our own extras among them."""
    for text in texts:
        need = Requirement(text)
        if need.name == PROJECT["project"]["name"]:
            for extra in sorted(need.extras):
                yield from needs(EXTRAS[extra], python)
        elif need.marker is None or need.marker.evaluate(environment(python)):
            yield need


def unmet(texts: list[str], versions: dict[str, str], python: str) -> list[str]:
    """Which requirements these versions leave open."""
    missing = []
    for need in needs(texts, python):
        version = versions.get(canonicalize_name(need.name))
        if need.name not in NOT_LOCKED and (version is None or version not in need.specifier):
            missing.append(f"{need} (locked: {version}; make lock)")
    return missing


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_meets_every_requirement(python: str) -> None:
    wanted = [*DEPENDENCIES, *EXTRAS["dev"], *EXTRAS["video"]]
    wanted += PROJECT["build-system"]["requires"]
    assert unmet(wanted, locked("requirements.lock", python), python) == []
    assert unmet(EXTRAS["docs"], locked("requirements-docs.lock", python), python) == []


def test_setup_brings_what_a_build_in_isolation_would() -> None:
    isolated = {
        text for text in PROJECT["build-system"]["requires"] if Requirement(text).name != "torch"
    }
    assert set(EXTRAS["build"]) == isolated


@pytest.mark.parametrize("python", PYTHONS)
def test_the_oldest_lock_is_the_lower_bounds(python: str) -> None:
    versions = locked("requirements-oldest.lock", python)
    for need in needs([*DEPENDENCIES, *EXTRAS["video"]], python):
        if need.name in NOT_LOCKED:
            continue
        lowest = [bound.version for bound in need.specifier if bound.operator == ">="]
        of_the_lock = [Version(versions[need.name])]
        assert of_the_lock == [Version(bound) for bound in lowest], f"{need.name} (make lock)"


def test_the_lock_meets_what_the_installed_torch_needs() -> None:
    """It is installed after the lock: what that lacked would come in its newest release."""
    if Version(torch.__version__.split("+")[0]) != SETUP_TORCH:
        pytest.skip(f"torch {torch.__version__} is not the one that the lock is for")
    own = re.compile("cuda|nvidia|triton")  # parts of a build for GPUs, pinned by torch itself
    texts = [text for text in metadata.requires("torch") or () if not own.match(text)]
    assert len(texts) > 3
    assert unmet(texts, locked("requirements.lock", PYTHONS[0]), PYTHONS[0]) == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_is_the_same_on_every_machine(lock: str) -> None:
    """Exact releases and their hashes: no index, no address, no folder, and no torch."""
    lines = (CHECKOUT / lock).read_text().splitlines()
    other = [line for line in lines if not (REQUIREMENT.match(line) or HASH.match(line))]
    assert [line for line in other if not line.startswith("#")] == []
    assert not any("://" in line or line.startswith("# -") for line in other)
    names = {found[1] for line in lines if (found := REQUIREMENT.match(line))}
    assert len(names) > 20
    assert not [name for name in names if re.match("torch|nvidia|cuda", name)]


def test_the_locked_transformers_are_the_tested_range() -> None:
    """The newest that was tested is what is locked, and the oldest what the bound says."""
    first, last = TESTED["transformers"]
    for python in PYTHONS:
        oldest = Version(locked("requirements-oldest.lock", python)["transformers"])
        newest = Version(locked("requirements.lock", python)["transformers"])
        assert (oldest.release[:2], newest.release[:2]) == (
            Version(first).release,
            Version(last).release,
        )


def test_the_torch_that_setup_takes_is_tested_and_allowed() -> None:
    bound = next(need for need in map(Requirement, DEPENDENCIES) if need.name == "torch")
    first, last = map(Version, TESTED["torch"])
    assert first <= SETUP_TORCH <= last
    refused = [it for it in (first, SETUP_TORCH, last) if it not in bound.specifier]
    assert refused == []


@pytest.mark.parametrize("extra", EXTRAS)
def test_no_extra_brings_another_torch(extra: str) -> None:
    """Nor what asks for one exact release of it."""
    for python in PYTHONS:
        named = {canonicalize_name(need.name) for need in needs(EXTRAS[extra], python)}
        assert not named & {"torch", *PINS_TORCH}


def test_what_make_train_runs_can_be_run() -> None:
    recipe = re.findall(r"^\t\$\(BIN\)/sparrow (train .+)$", MAKEFILE, re.MULTILINE)
    assert len(recipe) == 2
    (world,) = re.findall(r"^WORLD \?= (.+)$", MAKEFILE, re.MULTILINE)
    roles = [_parser().parse_args(line.replace("$(WORLD)", world).split()) for line in recipe]
    assert [parsed.role for parsed in roles] == ["target", "draft"]
    assert roles[1].target == roles[0].out


@pytest.mark.slow
def test_torchvision_can_be_imported_by_anyone_once_the_shim_waits_for_it() -> None:
    """As every process does in the environment of `make setup`; nothing is imported before."""
    code = (
        "import sparrow_kernels.video_shim as shim, sys; shim.at_import();"
        " assert 'torch' not in sys.modules; import torchvision; print(shim.standing())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True
    )
    try:
        version = metadata.version("torchvision")
    except metadata.PackageNotFoundError:
        assert "No module named 'torchvision'" in done.stderr
    else:
        assert done.stdout.startswith(f"torchvision {version}"), done.stderr
