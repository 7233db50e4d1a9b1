"""States of a language model's inner layers, as `output_hidden_states` would number them.

Asking transformers for them keeps every layer's, of a whole prompt: gigabytes at 25k tokens. Here
only those of the layers asked for are taken, and of a prompt only the rows asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn

from sparrow_kernels.models.bridge.view import is_private

_MARK = "_sparrow_untapped"


class StateTap:
    """Takes states out of a private view's `language_model` whenever it runs.

    Args:
        layer_ids: indices in transformers' tuple of hidden states: 0 the embedding, i what layer
            i - 1 put out, the last one the top state, which is the model's own output and not
            taken here.
        top: the last one's index, which is the number of layers.

    Raises:
        ValueError: an index that the model does not have.
    """

    def __init__(self, language_model: Any, layer_ids: Collection[int], top: int) -> None:
        self.rows: Tensor | None = None
        """`[n]` the rows of a forward to take; None for all."""
        self.taken: dict[int, Tensor] = {}
        """By index, `[B, rows, H]` of the last forward."""
        outside = [each for each in layer_ids if not 0 <= each <= top]
        if outside:
            raise ValueError(
                f"layer_ids must be of 0 to {top}, the target's hidden states, got {outside[0]}"
            )
        layers = getattr(language_model, "layers", ())
        inner = sorted({each for each in layer_ids if each < top})
        if inner and len(layers) != top:
            raise ValueError(
                f"target must have its {top} layers under the name `layers` for a draft that reads"
                f" some, got {type(language_model).__name__} with {len(layers)}"
            )
        for layer in layers:
            _untap(layer)
        for each in inner:
            self._tap(layers[max(each - 1, 0)], each)

    def _tap(self, layer: nn.Module, layer_id: int) -> None:
        assert is_private(layer), "a layer that others see must not be changed"
        own = layer.__dict__
        inner: Callable[..., Any] = layer.forward
        own.setdefault(_MARK, own.get("forward"))

        def forward(*arguments: Any, **keywords: Any) -> Any:
            if layer_id == 0:
                self._take(0, arguments[0] if arguments else keywords["hidden_states"])
                return inner(*arguments, **keywords)
            output = inner(*arguments, **keywords)
            self._take(layer_id, output[0] if isinstance(output, tuple) else output)
            return output

        own["forward"] = forward

    def _take(self, layer_id: int, states: Tensor) -> None:
        self.taken[layer_id] = states if self.rows is None else states[:, self.rows]

    def of(self, layer_id: int, top: Tensor) -> Tensor:
        """A layer's states of the last forward; `top` are those of the model's own output."""
        if layer_id not in self.taken:
            return top if self.rows is None else top[:, self.rows]
        return self.taken[layer_id]


def is_tapped(module: nn.Module) -> bool:
    """Whether the forward that stands in the module's place is a tap's alone."""
    return module.__dict__.get(_MARK, module) is None


def _untap(layer: nn.Module) -> None:
    own = layer.__dict__
    if _MARK in own:
        before = own.pop(_MARK)
        if before is None:
            del own["forward"]
        else:
            own["forward"] = before
