"""Which releases the package is tested with."""

from __future__ import annotations

import re

TESTED = {"torch": ("2.11", "2.14"), "transformers": ("5.17", "5.24")}
"""First and last minor release tested, both inclusive."""


def standing(package: str, version: str) -> str:
    """Where `version` stands, such as `newer than the tested range 5.17 … 5.24`.

    Its minor release decides: patches, local builds and what comes before a release stand where
    the release does. A version without a number cannot be placed, and that is said.
    """
    first, last = TESTED[package]
    minor = _minor(version)
    if not minor:
        place = "not comparable with"
    else:
        place = "older than" if minor < _minor(first) else "inside"
        place = "newer than" if minor > _minor(last) else place
    return f"{place} the tested range {first} … {last}"


def _minor(version: str) -> tuple[int, ...]:
    """(5, 25) of 5.25.0.dev0, 5.25rc1 and 5.25.1+local; empty where there is no number."""
    found = re.match(r"v?(\d+)(?:\.(\d+))?", version)
    return (int(found[1]), int(found[2] or 0)) if found else ()
