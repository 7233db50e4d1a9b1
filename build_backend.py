"""setuptools' build backend, which asks for a torch to build against only where there is none.

An isolated build (pip's default) cannot import what its environment holds, so it would fetch a
torch of its own, several GB on Linux, beside the one that is there. Headers and libraries can be
taken from where that one lies.
"""

from __future__ import annotations

import os
import re
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401  (the hooks that need no more)
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

TORCH = "torch>=2.11"  # the release whose stable ABI csrc is written for
_OLDEST = (2, 11)


class Torch(NamedTuple):
    """An installed torch, as its files tell, without importing it."""

    root: Path
    version: str
    cuda: str | None


def installed_torch() -> Torch | None:
    """The torch that SPARROW_BUILD_TORCH names, else the one that this process could import, else
    that of the environment it builds for."""
    named, spec = os.environ.get("SPARROW_BUILD_TORCH"), find_spec("torch")
    places = [Path(named)] if named else []
    places += [Path(spec.origin).parent] if spec is not None and spec.origin else []
    places += [Path(sysconfig.get_path(name)) / "torch" for name in ("purelib", "platlib")]
    for root in places:
        if not (root / "version.py").is_file() or not (root / "include").is_dir():
            continue
        text = (root / "version.py").read_text(encoding="utf-8")
        version = re.search(r"__version__ = '([^']+)'", text)
        cuda = re.search(r"^cuda\b[^=]*= '([^']+)'", text, re.MULTILINE)
        if version is not None:
            return Torch(root, version[1], cuda[1] if cuda else None)
    return None


def _needs_torch() -> list[str]:
    torch = installed_torch()
    if torch is None:
        return [TORCH]
    numbers = tuple(int(number) for number in re.findall(r"\d+", torch.version)[:2])
    return [] if numbers >= _OLDEST else [TORCH]


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_needs_torch()]


def get_requires_for_build_editable(config_settings: dict | None = None) -> list[str]:
    return [*build_meta.get_requires_for_build_editable(config_settings), *_needs_torch()]
