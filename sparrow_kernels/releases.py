"""Which releases the package is tested with."""

from __future__ import annotations

TESTED = {"torch": ("2.11", "2.14"), "transformers": ("5.17", "5.24")}
"""First and last minor release tested, both inclusive."""


def standing(package: str, version: str) -> str:
    """Where `version` stands, such as `newer than the tested range 5.17 … 5.24`."""
    first, last = TESTED[package]
    minor = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    low, high = (tuple(int(part) for part in bound.split(".")) for bound in (first, last))
    place = "older than" if minor < low else "newer than" if minor > high else "inside"
    return f"{place} the tested range {first} … {last}"
