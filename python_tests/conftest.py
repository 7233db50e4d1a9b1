"""What this machine cannot test, said in the last lines of a run.

The mark `gpu` skips a test where there is no GPU. Tests of the native library are left out only
where it was left out of the build by name (SPARROW_BUILD_NATIVE=0); where it is missing for any
other reason they fail.
"""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Iterator

# Processes side by side have a thread each: of more threads than cores each waits for others. NumPy
# asks when it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import interpreter  # noqa: F401  (turns Triton's interpreter on before anything imports triton)
import pytest
import torch
from emulation import library  # noqa: F401  (a fixture)
from hypothesis import settings
from suite_cases import planted  # noqa: F401  (a fixture)

from sparrow_kernels.ops import native

# A kernel's first launch on a GPU, and any launch under compute-sanitizer, takes longer than the
# 200 ms that an example may by default.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

NO_GPU = "no CUDA GPU on this machine"
NO_NATIVE = native.unavailable()  # loads it

collect_ignore_glob = []
if NO_NATIVE is not None and os.environ.get("SPARROW_BUILD_NATIVE") == "0":
    collect_ignore_glob.append("native/test_native_*.py")


def pytest_configure() -> None:
    gc.disable()  # what is imported and collected stays: a walk over it has nothing to free
    # A shell's job in the background ignores Ctrl-C, and so would what tests start and interrupt.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# What transformers announces with a FutureWarning it will break: an error where we call it.
_CALLS_TRANSFORMERS = ("test_decoder_", "test_transformers_", "test_cli_", "test_embedded_pair")
# Their tests share what takes seconds to make. The first ones of a run are not stolen by its other
# processes, which would make it again.
_MADE_ONCE = ("test_draft_probe.py", "test_draft_trained.py", "test_training_processes.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in _MADE_ONCE)
    for item in items:
        if item.path.name.startswith(_CALLS_TRANSFORMERS):
            item.add_marker(pytest.mark.filterwarnings("error::FutureWarning"))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(pytest.mark.skip(reason=NO_GPU))


def pytest_collection_finish() -> None:
    """Half a million objects of torch, transformers and the tests stay to the end: a collection,
    which some tests ask for at every step, need not walk them."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What a test draws does not depend on the tests before it, nor on the process it runs in."""
    torch.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_unconfigure(config: pytest.Config) -> Iterator[None]:
    yield
    gc.unfreeze()  # or bindings complain at the end of what is left over
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None:
        return
    if collect_ignore_glob:
        terminal.write_line("the tests of the native library did not run: SPARROW_BUILD_NATIVE=0")
    # A whole file left out at its import is reported without keywords.
    reports = terminal.stats.get("skipped", [])
    on_gpu = [report for report in reports if "gpu" in getattr(report, "keywords", ())]
    if not torch.cuda.is_available():
        terminal.write_line(f"{len(on_gpu)} gpu tests did not run: {NO_GPU}")
    others = [report for report in reports if report not in on_gpu]
    for reason, count in Counter(map(_why_skipped, others)).items():
        terminal.write_line(f"{count} more did not run: {reason}")


def _why_skipped(report: pytest.TestReport) -> str:
    """The reason, as `(file, line, "Skipped: reason")` holds it."""
    place = report.longrepr
    return str(place[2] if isinstance(place, tuple) else place).removeprefix("Skipped: ")
