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
def prefill_progress(target: PreTrainedModel, report: Report) -> Iterator[None]:
    """Call `report` as the layers of the next forward of `target` finish.

    The hooks are gone once the last layer has run, so that decoding steps never meet them, and in
    any case when the block ends: normally, by an error, or by Ctrl-C.
    """
    layers = _layers(target)
    waiting = set(range(len(layers)))
    handles: list[Any] = []

    def remove() -> None:
        for handle in handles:
            handle.remove()
        handles.clear()

    def hook_of(number: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            waiting.discard(number)
            # A tower may leave out its last blocks; the last decoder layer ends the prefill.
            if number == len(layers) - 1:
                waiting.clear()
            report(len(layers) - len(waiting), len(layers))
            if not waiting:
                remove()

        return hook

    try:
        for number, layer in enumerate(layers):
            handles.append(layer.register_forward_hook(hook_of(number)))
        report(0, len(layers))
        yield
    finally:
        remove()


def _layers(target: PreTrainedModel) -> list[nn.Module]:
    """Blocks of the vision tower, then decoder layers, in the order they run."""
    parts = Parts(target)
    towers = [m for m in (parts.visual or nn.Module()).modules() if isinstance(m, nn.ModuleList)]
    blocks = max(towers, key=len, default=nn.ModuleList())
    return [*blocks, *parts.language_model.layers]
