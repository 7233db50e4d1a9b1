"""One thing to measure: an op at a shape, what it must do, and who else can do it.

A case counts its own work: `bytes` that must move (each input read once, each output written once),
`flops` and `exps` (exponentials) that the result needs, no padding, nothing done twice. What the
device would need for that at the rates measured in the same run is the floor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

import sparrow_kernels
from sparrow_kernels.ops import registry

Arguments = dict[str, Any]
"""A call's keyword arguments: tensors, lists and tuples of them, numbers."""
Call = Callable[[], Any]
COMPOSITE = "composite"
"""An op that is composed of others has no backend of its own."""


class Way(NamedTuple):
    """One way to compute a case's result: a backend of ours, or a peer."""

    name: str
    is_ours: bool
    prepare: Callable[[Arguments], Call]
    """Makes the call to be timed. What a user would do once a step or less (masks, plans,
    compilation) happens here, in the peer's favour."""
    unavailable: str | None = None
    """Why it cannot run here, None if it can."""
    as_ours: Callable[[Arguments, Any], Any] = lambda arguments, result: result
    """A peer's result in our encoding, for the comparison; not timed."""
    compiles: bool = False
    """Whether `prepare` compiles for seconds."""

    def chosen(self) -> AbstractContextManager:
        """Where our ops run by this backend; a peer that uses one of our ops gets the usual one."""
        if self.is_ours and self.name != COMPOSITE:
            return sparrow_kernels.backend(self.name)
        return nullcontext()


class Case(ABC):
    """A frozen dataclass whose fields are the dtype and the shape, all with a default."""

    op: ClassVar[str]
    """The public name of the op it measures."""
    dtype: torch.dtype
    HAS_ONE_DTYPE: ClassVar[bool] = False
    """Whether its op takes its tensors in no other dtype than the default."""
    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {}
    """What a word that is no number may be, where that is more than its default."""

    @abstractmethod
    def bytes(self) -> int: ...

    def flops(self) -> int:
        return 0

    def exps(self) -> int:
        return 0

    def issued_flops(self, way: Way) -> int | None:
        """What the tiles of one of our backends compute, padding included; None: nobody counts."""
        return None

    def contradiction(self) -> str | None:
        """Why there is no such case, where its words contradict one another; None: there is."""
        return None

    @abstractmethod
    def arguments(self, device: torch.device, seed: int) -> Arguments:
        """Fresh random arguments of the op, the same for the same seed."""

    def call(self, arguments: Arguments) -> Any:
        """Run the op; its result."""
        return getattr(sparrow_kernels, self.op)(**arguments)

    def outcome(self, arguments: Arguments, result: Any) -> Any:
        """What a call did, to be compared: its result, and what it wrote in place."""
        return result

    def exact(self, arguments: Arguments) -> Any:
        """The outcome in float64 (integers: as they are), by the op's plain definition."""
        arguments = mapped(arguments, _doubled)
        with sparrow_kernels.backend("reference"), sparrow_kernels.checks(False):
            return self.outcome(arguments, self.call(arguments))

    def rounded(self, arguments: Arguments) -> Any:
        """The outcome by the plain definition in the case's own dtype: how far PyTorch is off."""
        with sparrow_kernels.backend("reference"), sparrow_kernels.checks(False):
            return self.outcome(arguments, self.call(arguments))

    def summands(self) -> float:
        """The size of what is added up into a result that can come out smaller, as an average of
        many values does: that is what its rounding is measured by."""
        return 0.0

    def reset(self, arguments: Arguments) -> Call | None:
        """What undoes a call's effect on its arguments, where repeating it needs that."""
        return None

    def peers(self, device: torch.device) -> list[Way]:
        """Others who compute the same from the same arguments."""
        return []

    @classmethod
    def words(cls) -> dict[str, str]:
        """The words of a case's name, and the field behind each."""
        names = (field.name for field in fields(cls) if field.name != "dtype")  # type: ignore[arg-type]
        return {_WORDS.get(name, name): name for name in names}

    @property
    def name(self) -> str:
        """The shape in words, such as `model=qwen2.5-vl-7b prefix=4096 T=30 B=1`."""
        return " ".join(f"{word}={getattr(self, name)}" for word, name in self.words().items())

    def ours(self, device: torch.device) -> list[Way]:
        """Every backend that has the op, with the reason where it cannot run on `device`."""
        getattr(sparrow_kernels, self.op)  # an op is defined when its family is first asked for
        op = registry.defined_ops().get(self.op)
        if op is None:
            return [Way(COMPOSITE, True, self._prepare)]
        ways = []
        for backend in ("native", "triton", "torch", "reference"):
            if backend not in op.implementations:
                continue
            reason = op.unavailable(backend)
            if reason is None and device.type == "cuda" and backend == "torch":
                reason = "for CPU tensors only"
            if reason is None and device.type == "cuda" and backend == "reference":
                reason = "what the others are held to; most of it waits for the GPU"
            if reason is None and device.type == "cpu" and backend == "triton":
                reason = "needs a GPU: its interpreter is for tests"
            ways.append(Way(backend, True, self._prepare, reason))
        return ways

    def _prepare(self, arguments: Arguments) -> Call:
        given = dict(arguments)  # a peer may put others in their place
        return lambda: self.call(given)


@dataclass(frozen=True)
class TorchWay:
    """A peer in plain PyTorch, and the same under `torch.compile`."""

    function: Callable[[Arguments], Any]
    name: str = "torch"

    def ways(self, *, compiled: bool = True) -> Iterator[Way]:
        yield Way(self.name, False, lambda arguments: lambda: self.function(arguments))
        if compiled:
            yield Way(f"{self.name}, compiled", False, self._compiled, compiles=True)

    def _compiled(self, arguments: Arguments) -> Call:
        function = torch.compile(self.function, dynamic=False)
        function(arguments)
        return lambda: function(arguments)


_WORDS = {"nodes": "T", "batch": "B", "length": "S", "rows": "R", "head_dim": "D"}


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with `change` applied to every tensor in it."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: mapped(each, change) for name, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(each, change) for each in value))
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(each, change) for each in value)
    return value


def tensors_of(value: Any) -> list[Tensor]:
    """Every tensor in `value`, in order."""
    found: list[Tensor] = []
    mapped(value, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found


def _doubled(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.dtype.is_floating_point else tensor.clone()
