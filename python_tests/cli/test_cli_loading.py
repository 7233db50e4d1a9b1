"""The wait before a command can begin: said on a terminal, and not made longer."""

from __future__ import annotations

import gc
import io

import pytest

from sparrow_kernels.cli.loading import loading
from sparrow_kernels.cli.terminal import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_loading_is_said_and_leaves_the_collector_as_it_was() -> None:
    for stream, said in ((Terminal(), "loading torch and transformers"), (io.StringIO(), "")):
        with ProgressBar("", stream) as bar, loading(bar):
            assert not gc.isenabled()
            assert stream.getvalue().endswith(said)
        assert gc.isenabled() and bool(stream.getvalue()) is bool(said)
    gc.disable()
    try:
        with loading(ProgressBar("", io.StringIO())):
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
    with pytest.raises(KeyboardInterrupt), loading(ProgressBar("", io.StringIO())):
        raise KeyboardInterrupt
    assert gc.isenabled()
