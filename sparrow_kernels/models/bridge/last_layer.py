"""The last layer of a prompt's forward, for the rows that are read.

What that layer makes of a slot goes into no cache: only into the top states, of which the draft
reads those before text, and the LM head the last one. So of a clip's slots the last layer needs
keys and values alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor

from sparrow_kernels.models.bridge.view import is_private

_MOST_ROWS = 256
"""Above, their mask over a long prompt is large, and little is left to save."""


class ReadRows(NamedTuple):
    """The rows of a forward whose top states are read."""

    rows: Tensor
    """`[m]` int64, ascending."""
    layer: int
    """The last one's number."""


@contextmanager
def only_read(language_model: Any, rows: Tensor, length: int) -> Iterator[dict[str, Any]]:
    """Inside the block the last layer of a private view works for `rows` alone, where it is worth
    it; its other top states are of no meaning.

    Gives the keywords of the forward that say so to the attention.
    """
    layers = getattr(language_model, "layers", None)
    if layers is None or len(rows) > min(_MOST_ROWS, length // 2):
        yield {}
        return
    mlp: Any = getattr(layers[-1], "mlp", None)
    read = {"read": ReadRows(rows, len(layers) - 1)}
    if mlp is None or not is_private(mlp) or "forward" in mlp.__dict__:
        yield read
        return
    inner = mlp.forward

    def forward(hidden: Tensor) -> Tensor:
        made = inner(hidden[:, rows])  # of another dtype under autocast
        return made.new_zeros(hidden.shape).index_copy_(1, rows, made)

    mlp.__dict__["forward"] = forward
    try:
        yield read
    finally:
        del mlp.__dict__["forward"]
