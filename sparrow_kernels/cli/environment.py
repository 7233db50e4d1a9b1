"""Describe this machine and installation: versions, devices, and which backend runs, or why not."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from importlib import metadata
from typing import Any

from sparrow_kernels.cli.errors import one_line
from sparrow_kernels.cli.streams import print_json
from sparrow_kernels.releases import TESTED, standing
from sparrow_kernels.video_shim import install_for, release_for

HELP = "versions, devices, and which backend is available and why not"

_PACKAGES = ("torch", "transformers", "triton", "torchvision", "av", "numpy", "safetensors")
_SETTINGS = tuple(
    f"SPARROW_{name}"
    for name in ("AUTOTUNE", "BACKEND", "CHECK", "CPU_LEVEL", "TRACEBACK", "WGMMA")
)
_BACKENDS = ("native", "triton", "torch", "reference")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(arguments: argparse.Namespace) -> int:
    facts = describe()
    if arguments.json:
        print_json(facts)
    else:
        print("\n".join(_lines(facts)))
    return 0


def describe() -> dict[str, Any]:
    """Everything `sparrow env` tells, ready for JSON."""
    versions = _versions()
    return {
        "versions": versions,
        "tested": {
            package: None if version is None else standing(package, version)
            for package, version in versions.items()
            if package in TESTED
        },
        "clips": _clips(),
        "torchvision_fix": _torchvision_fix(versions),
        "devices": _devices(),
        "backends": _backends(),
        "warpgroup_products": _warpgroup_products(),
        "native_build": _native_build(),
        "settings": {name: os.environ.get(name) for name in _setting_names()},
    }


def _versions() -> dict[str, str | None]:
    from sparrow_kernels import __version__

    versions: dict[str, str | None] = {
        "sparrow_kernels": __version__,
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    import torch

    versions["torch"] = torch.__version__
    versions["cuda"] = torch.version.cuda
    return versions


def _clips() -> str:
    from sparrow_kernels import video_shim

    return video_shim.standing()


def _torchvision_fix(versions: dict[str, str | None]) -> str | None:
    """The command that brings the torchvision of this torch; None where it is there, or none is."""
    # Its files say more than what pip knows of it, such as the CUDA that it was built for.
    loaded = getattr(sys.modules.get("torchvision"), "__version__", versions["torchvision"])
    (torch, _, build), (vision, _, its) = (
        (version or "").partition("+") for version in (versions["torch"], loaded)
    )
    if not vision:
        return None
    if build and its and build != its:
        return install_for(f"{torch}+{build}", "--force-reinstall")
    fits = vision.startswith(release_for(torch) + ".")
    return None if fits else install_for(versions["torch"] or "")


def _devices() -> list[dict[str, Any]]:
    import torch

    cpu = {"device": "cpu", "name": _cpu_name(), "threads": torch.get_num_threads()}
    devices: list[dict[str, Any]] = [cpu]
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(number)
        devices.append(
            {
                "device": f"cuda:{number}",
                "name": facts.name,
                "capability": f"{facts.major}.{facts.minor}",
                "memory_bytes": facts.total_memory,
            }
        )
    return devices


def _setting_names() -> list[str]:
    return sorted({*_SETTINGS, *(name for name in os.environ if name.startswith("SPARROW_"))})


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _backends() -> dict[str, dict[str, Any]]:
    """For each backend its ops that can run here, and why the others cannot."""
    import sparrow_kernels.ops.accept
    import sparrow_kernels.ops.attention
    import sparrow_kernels.ops.gather
    import sparrow_kernels.ops.tree  # noqa: F401  (families define their ops when imported)
    from sparrow_kernels.ops.registry import defined_ops

    backends = {}
    for backend in _BACKENDS:
        available: list[str] = []
        unavailable: dict[str, str] = {}
        for name, op in sorted(defined_ops().items()):
            if backend not in op.implementations:
                continue
            reason = op.unavailable(backend)
            if reason is None:
                available.append(name)
            else:
                unavailable[name] = reason
        backends[backend] = {"available": available, "unavailable": unavailable}
    return backends


def _warpgroup_products() -> str:
    from sparrow_kernels.ops import fences

    return fences.standing()


def _native_build() -> dict[str, Any] | None:
    try:
        from sparrow_kernels import _C
    except ImportError:
        return None
    names = (name for name in vars(_C) if not name.startswith("_"))
    return {name: getattr(_C, name) for name in names if not callable(getattr(_C, name))}


def _lines(facts: dict[str, Any]) -> list[str]:
    lines = []
    for name, version in facts["versions"].items():
        stands = facts["tested"].get(name)
        lines.append(f"{name:<16} {version or 'none'}" + (f" ({stands})" if stands else ""))
    lines.append(f"{'clips by':<16} {one_line(facts['clips'])}")
    if facts["torchvision_fix"] is not None:
        lines.append(f"{'':<16} the torchvision for this torch: {facts['torchvision_fix']}")
    lines.append("")
    for device in facts["devices"]:
        more = ", ".join(f"{k} {v}" for k, v in device.items() if k not in ("device", "name"))
        lines.append(f"{device['device']:<16} {device['name']} ({more})")
    lines += ["", *_backend_lines(facts["backends"])]
    lines += [f"{'triton on 9.x':<16} a warpgroup's products {facts['warpgroup_products']}", ""]
    build = facts["native_build"]
    if build is None:
        lines.append(f"{'native build':<16} none")
    else:
        lines += [
            f"{'native build':<16} {name} {_in_words(value)}" for name, value in build.items()
        ]
    lines.append("")
    for name, value in facts["settings"].items():
        lines.append(f"{name:<18} {one_line(value) if value else 'not set'}")
    return lines


def _in_words(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value == []:  # the one list there is: of GPUs' architectures
        return "none: built for CPUs alone"
    return (", ".join(map(str, value)) if isinstance(value, list) else value) or "none"


def _backend_lines(backends: dict[str, Any]) -> list[str]:
    lines = []
    for name, ops in backends.items():
        count = len(ops["available"])
        total = count + len(ops["unavailable"])
        reasons = sorted(set(ops["unavailable"].values()))
        if not total:
            lines.append(f"{name:<16} no op has this backend")
        elif not reasons:
            lines.append(f"{name:<16} available for {count} ops")
        else:
            lines.append(f"{name:<16} available for {count} of {total} ops: {'; '.join(reasons)}")
    return lines
