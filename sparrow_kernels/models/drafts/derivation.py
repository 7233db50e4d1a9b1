"""Working out what a draft is: each setting with where it was read from, each weight taken once."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from sparrow_kernels.models.drafts.files import DraftFiles

# Buffers that producers save, and that nothing here needs.
_IGNORED = ("t2d", "verifier_lm_head.weight", "verifier_norm.weight", "position_ids")
_IGNORED_ENDS = ("rotary_emb.inv_freq", "tree_mask_init")
_WHOLE = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)


class TargetFacts(NamedTuple):
    """What a draft is held against: a target's configuration, and its vocabulary where loaded."""

    model_type: str
    layers: int | None
    """None where only the draft speaks of its target."""
    hidden: int
    vocabulary: int
    embedding: Tensor | None = None
    """`[V, H]`"""
    lm_head: Tensor | None = None
    """`[V, H]`"""

    @classmethod
    def of_config(cls, config: Any) -> TargetFacts:
        """Those of a transformers configuration."""
        text = config.get_text_config()
        return cls(config.model_type, text.num_hidden_layers, text.hidden_size, text.vocab_size)

    @classmethod
    def of(cls, target: Any) -> TargetFacts:
        """Those of a model."""
        tables = (target.get_input_embeddings().weight, target.get_output_embeddings().weight)
        embedding, lm_head = (None if one.is_meta else one for one in tables)  # offloaded
        return cls.of_config(target.config)._replace(embedding=embedding, lm_head=lm_head)


def positive(where: str, name: str, value: Any) -> float | None:
    """What was read or asked for under `name`; None where nothing was.

    Raises:
        ValueError: no number above 0.
    """
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise ValueError(f"draft {where}: {name} must be a number above 0, got {value!r}")
    return float(value)


class Derivation:
    """A draft on its way from another's layout to ours.

    Args:
        files: what was read. `model.` in front of a name is left out.
        facts: the target's.
        strict: refuse what is not understood; else say so in `notes`.
    """

    def __init__(self, files: DraftFiles, facts: TargetFacts, strict: bool) -> None:
        self.where, self.facts, self.strict = files.where, facts, strict
        self.config = files.config
        nested = files.config.get("transformer_layer_config")
        self.layer_config: dict[str, Any] = nested if isinstance(nested, dict) else files.config
        self.tensors = {
            name.removeprefix("model."): tensor for name, tensor in files.tensors.items()
        }
        self.settings: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self.weights: dict[str, Tensor] = {}
        """By their names in `DraftNetwork`."""
        self.notes: list[str] = []
        self._taken: set[str] = set()

    def put(self, name: str, value: Any, source: str) -> None:
        """A setting of `SparrowDraftConfig`."""
        self.settings[name], self.sources[name] = value, source

    def has(self, *names: str) -> bool:
        """Whether all of these weights are there."""
        return all(name in self.tensors for name in names)

    def require(self, names: list[str]) -> None:
        """Refuse a draft that lacks some of these weights."""
        missing = [name for name in names if name not in self.tensors]
        if missing:
            self.refuse(f"must have {', '.join(missing)}, got none", "half a draft is not loaded")

    def take(self, name: str, *shape: int, whole: bool = False) -> Tensor:
        """A weight of this shape, of floating point or of `whole` numbers, as it was saved."""
        self.require([name])
        self._taken.add(name)
        tensor = self.tensors[name]
        if tuple(tensor.shape) != shape:
            self.refuse(f"{name} must be {list(shape)}, got {list(tensor.shape)}")
        fits = tensor.dtype in _WHOLE if whole else tensor.is_floating_point()
        if not fits:
            kind = "whole numbers" if whole else "numbers of floating point"
            self.refuse(f"{name} must hold {kind}, got {tensor.dtype}")
        return tensor

    def rows(self, name: str) -> int:
        """How many rows a weight has, where it is the weight that says so."""
        self.require([name])
        if not self.tensors[name].ndim:
            self.refuse(f"{name} must have rows, got a single number")
        return len(self.tensors[name])

    def columns(self, name: str) -> int:
        """As `rows`, of a matrix."""
        self.require([name])
        if self.tensors[name].ndim != 2:
            self.refuse(f"{name} must be a matrix, got {list(self.tensors[name].shape)}")
        return self.tensors[name].shape[1]

    def from_config(self, *names: str) -> Any:
        """The first of these that the configuration has, the layer's own part of it first."""
        for name in names:
            for config in (self.layer_config, self.config):
                if config.get(name) is not None:
                    return config[name]
        return None

    def count(self, name: str) -> int | None:
        """A whole number of the configuration, at least 1; None where it does not say."""
        value = self.from_config(name)
        if value is not None and (type(value) is not int or value < 1):
            self.refuse(
                f"{name} in config.json must be a whole number of at least 1, got {value!r}"
            )
        return value

    def refuse(self, what: str, hint: str = "") -> NoReturn:
        """Raise a `ValueError` that names the draft."""
        raise ValueError(f"draft {self.where}: {what}" + (f" ({hint})" if hint else ""))

    def object_to(self, what: str) -> None:
        """Refuse, or where nothing is strict note it."""
        if self.strict:
            self.refuse(what, "strict=False loads it all the same")
        self.notes.append(what)

    def check_all_taken(self) -> None:
        """Refuse weights that nobody has asked for."""
        left = sorted(
            name
            for name in set(self.tensors) - self._taken
            if name not in _IGNORED and not name.endswith(_IGNORED_ENDS)
        )
        if left:
            shown = ", ".join(left[:6]) + (f" and {len(left) - 6} more" if len(left) > 6 else "")
            self.object_to(f"must have no weights that are not understood, got {shown}")

    @property
    def dtype(self) -> torch.dtype:
        """What the draft was saved in."""
        return next(one.dtype for one in self.tensors.values() if one.is_floating_point())
