"""A step's parts as recordings: what they call, without the Python that led to it.

The first step of a shape runs as it is, the second is recorded part by part, and from then on its
calls are made again. Where buffers have moved, it is recorded again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sparrow_kernels.decoding.recording import Recording
from sparrow_kernels.decoding.recording_function import function_of
from sparrow_kernels.decoding.step import Step

_READS = {"draft": (), "verify": ("drafted",), "commit": ("drafted", "verified")}
"""What a part reads that is new in each step."""
_MAKES = {"draft": "drafted", "verify": "verified", "commit": "scores"}


class RecordedStep:
    """Runs the parts of `step` as recordings.

    Args:
        step: the step.
        eager: parts that must run as they are, since they look at the host.
    """

    def __init__(self, step: Step, eager: tuple[str, ...] = ()) -> None:
        self._step = step
        self.refused: dict[str, str] = dict.fromkeys(eager, "looks at the host")
        """Parts that run as they are, and why."""
        self._replays: dict[str, Callable[[Any], Any]] = {}
        self._warm: set[str] = set()

    def moved(self) -> None:
        """Buffers have moved: what was recorded reads where they were."""
        self._replays.clear()
        self._warm.clear()

    def draft(self) -> None:
        """See `Step.draft`."""
        self._run("draft")

    def verify(self) -> None:
        """See `Step.verify`."""
        self._run("verify")

    def commit(self) -> None:
        """See `Step.commit`."""
        self._run("commit")

    def _run(self, name: str) -> None:
        step, part = self._step, getattr(self._step, name)
        if name in self.refused or name not in self._warm or _somebody_watches():
            self._warm.add(name)
            part()
            return
        given = tuple(getattr(step, each) for each in _READS[name])
        if name in self._replays:
            setattr(step, _MAKES[name], self._replays[name](given))
            return
        recording = Recording(given)
        recording(part)
        if recording.refused is None:
            self._replays[name] = function_of(recording, getattr(step, _MAKES[name]))
        else:
            self.refused[name] = recording.refused


def _somebody_watches() -> bool:
    """Whether a mode is in force that wants to see modules and functions called."""
    return bool(torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack())
