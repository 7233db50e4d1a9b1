"""Runs tests on other releases of transformers than the installed one.

    python python_tests/on_releases.py oldest newest 5.20.2 --tests python_tests/video/test_video.py

A release, and of what it needs only what is not installed in that version already, lies in a
folder under .overlays, which PYTHONPATH puts before the environment's own packages. So torch,
pytest and this package are the environment's, and a release takes seconds instead of gigabytes.
`oldest` is requirements-oldest.lock: the lower bounds of pyproject.toml, transformers' and others'.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OVERLAYS = ROOT / ".overlays"
_WORKERS = ["-n", os.environ.get("WORKERS", "2"), "--dist", "worksteal"]
"""As in the Makefile: processes that run tests, of one torch thread each."""
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]


class Unavailable(Exception):
    """A release that could not be installed; says why."""


def pip(*arguments: str | Path) -> None:
    done = subprocess.run([*PIP, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        if "(from versions: none)" in done.stderr:  # it has some of every package asked for here
            raise Unavailable("the package index cannot be reached")
        errors = [line for line in done.stderr.splitlines() if line.lower().startswith("error")]
        raise Unavailable(errors[-1] if errors else done.stderr.strip())


def request(name: str) -> list[str]:
    """What pip is asked for."""
    if name == "oldest":
        return ["--require-hashes", "--no-deps", "-r", str(ROOT / "requirements-oldest.lock")]
    if name == "locked":
        lock = (ROOT / "requirements.lock").read_text()
        return re.findall(r"^transformers==[\w.]+", lock, re.MULTILINE)
    if name == "newest":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        return [need for need in project["dependencies"] if need.startswith("transformers")]
    return [f"transformers=={name}"]


def installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def resolve(name: str) -> str:
    """Requirement lines of what the release takes and the environment has not in that version."""
    report = OVERLAYS / "report.json"
    pip("--dry-run", "--ignore-installed", "--report", report, *request(name))
    lines = []
    for item in json.loads(report.read_text())["install"]:
        package, version = item["metadata"]["name"].lower(), item["metadata"]["version"]
        if package == "torch" or package.startswith("nvidia"):
            raise Unavailable(f"it asks for {package} {version}, and the installed torch must stay")
        if installed(package) != version:
            digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
            lines.append(f"{package}=={version} --hash=sha256:{digest}\n")
    return "".join(lines)


def requirements(name: str) -> str:
    """`resolve`, once for the same request and environment; but each time for `newest`."""
    asked = [Path(word).read_text() if word.endswith(".lock") else word for word in request(name)]
    present = sorted(f"{found.name}=={found.version}" for found in metadata.distributions())
    answer = OVERLAYS / f"{name}-{digest(sys.version, *asked, *present)}.txt"
    if name == "newest" or not answer.exists():
        answer.write_text(resolve(name))
    return answer.read_text()


def overlay(name: str) -> Path | None:
    """The folder to put before the environment's packages; None where they are the release."""
    if request(name) == [f"transformers=={installed('transformers')}"] and name == "locked":
        return None
    OVERLAYS.mkdir(exist_ok=True)
    lines = requirements(name)
    if not lines:
        return None
    folder = OVERLAYS / f"{name}-{digest(lines)}"
    if not folder.exists():
        listed, partial = (Path(f"{folder}.{suffix}") for suffix in ("txt", "partial"))
        shutil.rmtree(partial, ignore_errors=True)
        listed.write_text(lines)
        pip("--require-hashes", "--no-deps", "--target", partial, "-r", listed)
        partial.rename(folder)
    return folder


def digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def run(name: str, tests: list[str]) -> tuple[str, bool]:
    """What to say of a release in one line, and whether that is no failure."""
    try:
        folder = overlay(name)
    except Unavailable as reason:
        # What is newest is known to the registry alone; anything else was asked for by name.
        print(f"\n{name}: {reason}", flush=True)
        return f"not run: {reason}", name == "newest"
    environment = os.environ | ({"PYTHONPATH": str(folder)} if folder else {})
    environment |= {"OMP_NUM_THREADS": "1"}
    ask = "import torch, transformers; print(transformers.__version__, torch.__version__)"
    versions = subprocess.check_output([sys.executable, "-c", ask], env=environment, text=True)
    release, torch = versions.split()
    if name == "newest" and folder is None:
        return f"transformers {release} and all it needs are what is installed", True
    print(f"\n{name}: transformers {release}, torch {torch}, {folder or sys.prefix}", flush=True)
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *_WORKERS, *tests]
    code = subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode
    outcome = "FAILED" if code else "passed"
    return f"transformers {release} {outcome} ({time.monotonic() - began:.0f} s)", code == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("releases", nargs="+", help="oldest, locked, newest or a version")
    parser.add_argument("--tests", nargs="+", required=True)
    arguments = parser.parse_args()
    said = {name: run(name, arguments.tests) for name in arguments.releases}
    print()
    for name, (line, _) in said.items():
        print(f"{name}: {line}")
    return 0 if all(fine for _, fine in said.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
