"""The `sparrow` command: ask about a clip, make clips, train, evaluate, describe the machine."""

from sparrow_kernels.cli.main import main

__all__ = ["main"]
