"""How far a prefill has come, seen from forward hooks on vision blocks and decoder layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from sparrow_kernels.models.families import Parts

Report = Callable[[int, int], None]
"""`report(done, total)` in layers; called with 0 first, and with `total` when the prefill ends."""


@contextmanager
def prefill_progress(
    target: PreTrainedModel, report: Report, *, prompts: int = 1
) -> Iterator[None]:
    """Call `report` as the layers of the next prefill of `target` finish.

    A vision block runs once for all `prompts`, a decoder layer once for each. The hooks are gone
    once the last layer has run, so that decoding steps never meet them, and in any case when the
    block ends: normally, by an error, or by Ctrl-C.
    """
    blocks, layers = _layers(target)
    total = len(blocks) + prompts * len(layers)
    done = 0
    handles: list[Any] = []

    def remove() -> None:
        for handle in handles:
            handle.remove()
        handles.clear()

    def has_done(layers: int) -> None:
        nonlocal done
        done = layers
        report(done, total)
        if done == total:
            remove()

    def block_hook(number: int) -> Callable[..., None]:
        # A tower may leave out its last blocks.
        return lambda *_: has_done(max(done, number + 1))

    try:
        for number, block in enumerate(blocks):
            handles.append(block.register_forward_hook(block_hook(number)))
        for layer in layers:
            count = layer.register_forward_hook(lambda *_: has_done(max(done, len(blocks)) + 1))
            handles.append(count)
        report(0, total)
        yield
    finally:
        remove()


def _layers(target: PreTrainedModel) -> tuple[list[nn.Module], list[nn.Module]]:
    """Blocks of the vision tower, and decoder layers, each in the order they run."""
    parts = Parts(target)
    towers = [m for m in (parts.visual or nn.Module()).modules() if isinstance(m, nn.ModuleList)]
    blocks = max(towers, key=len, default=nn.ModuleList())
    return list(blocks), list(parts.language_model.layers)
