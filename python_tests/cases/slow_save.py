"""A process in the middle of a save, for tests that send it signals."""

from __future__ import annotations

import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from sparrow_kernels.cli.signals import Terminated, signals_raise
from sparrow_kernels.training import checkpoint


def save_slowly(path: Path, heard: Connection, told: Connection) -> None:
    """Save step 2, and when a signal came step 3; each goes on once anything is heard."""
    # A job in the background, as these tests may be, inherits signals that are ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    save = torch.save

    def slow(content: Any, file: Any) -> None:
        file.write(b"half a checkpoint")
        file.flush()
        told.send("writing")
        heard.recv()
        file.seek(0)
        save(content, file)

    torch.save = slow
    with signals_raise():
        try:
            checkpoint.write_whole({"step": 2}, path)
            told.send("not interrupted")
        except (KeyboardInterrupt, Terminated):
            checkpoint.write_whole({"step": 3}, path)
