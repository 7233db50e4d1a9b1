"""The calls of a part of a step, written down once and made again without what led to them.

On a CPU a step of a small target spends most of its time in Python: modules that call modules,
checks of what cannot have changed, the same angles prepared in every layer. What has to be done is
a list of calls of operators, which is the same in every step, since shapes are. A recording is that
list, as one function. As in a CUDA graph, tensors that were there before stay where they are and
are read again; unlike in one, results are new tensors.

    made once         views of tensors that were there before
    made once a step  what is asked for again before what it was made from has changed
    not made          what nobody reads

Results are those of the recorded calls, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from sparrow_kernels.decoding.bindings import binding

_LOOKS = ("tolist", "numpy", "__array__", "data_ptr", "untyped_storage", "__dlpack__")
"""What reads a tensor's memory past the dispatcher; what goes through it returns no tensor."""


class Value:
    """A tensor of a recording, by the name that it has there."""

    def __init__(self, name: str, memory: int, is_found: bool = False) -> None:
        self.name, self.memory, self.is_found = name, memory, is_found

    def __repr__(self) -> str:
        return self.name


class Call(NamedTuple):
    """One call; its arguments have `Value`s in the place of tensors."""

    operator: OpOverload
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    results: tuple[Value, ...]
    written: tuple[Value, ...]
    is_several: bool
    """Whether it returns several results, or one in a list."""

    @property
    def has_effect(self) -> bool:
        """Whether it does more than return its results."""
        return bool(self.written) or torch.Tag.nondeterministic_seeded in self.operator.tags


class Recording:
    """What a part of a step calls.

    Args:
        given: what it reads that is new in each step, in tuples and lists.
    """

    def __init__(self, given: Any) -> None:
        self.refused: str | None = None
        """What cannot be called again blindly; None if all can."""
        self.calls: list[Call] = []
        self.found: dict[str, Tensor] = {}
        """Tensors that were there before, by name."""
        self.places: list[tuple[Value, str]] = []
        """What is given, and where in it."""
        self._values: Any = WeakIdKeyDictionary()
        self._memories: dict[int, int] = {}  # of what is given and found
        self._names = 0
        self._given = given  # alive for as long as its memories are told by where they lie
        for place, tensor in _places("given", given):
            self.places.append((self._name(tensor, self._memory_of(tensor)), place))

    def __call__(self, part: Callable[[], None]) -> None:
        """Run `part`, and write down what it calls."""
        with _Calls(self), _Looks(self):
            part()

    def named(self, structure: Any) -> Any:
        """`structure` with a `Value` in the place of each tensor."""

        def name(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return self._values.get(leaf) or self._find(leaf)

        return rebuilt(structure, name)

    def refuse(self, what: str) -> None:
        self.refused = self.refused or what

    def note(self, operator: OpOverload, arguments: Any, keywords: Any, result: Any) -> None:
        """Write down a call that has been made."""
        schema = operator._schema
        is_several = isinstance(result, (tuple, list))
        results = tuple(result) if is_several else () if result is None else (result,)
        is_tensors = all(isinstance(each, Tensor) for each in results)
        if not is_tensors or _size_is_unknown(operator, arguments):
            self.refuse(str(operator))
            return
        named, keys = self.named(tuple(arguments)), self.named(dict(keywords))
        by_name = dict(zip((one.name for one in schema.arguments), named, strict=False)) | keys
        aliased, written = [], []
        for one in schema.arguments:
            if one.alias_info is not None:
                values = list(values_in(by_name.get(one.name)))
                aliased += values
                written += values if one.alias_info.is_write else []
        if not written and results and all(each in self._values for each in results):
            return  # what was already as was asked for
        memories = {each.memory for each in aliased}
        are_views = all(self._memory_of(each) in memories for each in results)
        if not written and memories and are_views and all(each.is_found for each in aliased):
            for each in results:
                self._find(each)  # it follows what it looks at
            return
        made = []
        for each in results:
            known = self._values.get(each)
            memory = min(memories) if memories and not written else self._new()
            made.append(self._value(known.memory) if known else self._name(each, memory))
        function = binding(operator, arguments, keywords, result)
        self.calls.append(
            Call(operator, function, named, keys, tuple(made), tuple(written), is_several)
        )

    def _find(self, tensor: Tensor) -> Value:
        value = self._name(tensor, self._memory_of(tensor), is_found=True)
        self.found[value.name] = tensor
        return value

    def _name(self, tensor: Tensor, memory: int, is_found: bool = False) -> Value:
        value = self._values[tensor] = self._value(memory, is_found)
        return value

    def _value(self, memory: int, is_found: bool = False) -> Value:
        return Value(f"v{self._new()}", memory, is_found)

    def _memory_of(self, tensor: Tensor) -> int:
        return self._memories.setdefault(tensor.untyped_storage()._cdata, self._new())

    def _new(self) -> int:
        self._names += 1
        return self._names


class _Calls(TorchDispatchMode):
    """Notes what reaches the dispatcher."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self._recording = recording

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._recording.note(func, args, kwargs or {}, result)
        return result


class _Looks(TorchFunctionMode):
    """Notes what reads a tensor on the host, past the dispatcher."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self._recording = recording

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _LOOKS:
            self._recording.refuse(func.__name__)
        return func(*args, **(kwargs or {}))


def _size_is_unknown(operator: OpOverload, arguments: Any) -> bool:
    """Whether the results' sizes follow from values: those of an index only where it is a mask."""
    if operator is torch.ops.aten.index.Tensor:
        return any(each is not None and each.dtype == torch.bool for each in arguments[1])
    return torch.Tag.dynamic_output_shape in operator.tags


def values_in(structure: Any) -> Iterator[Value]:
    """All `Value`s in tuples, lists and dicts."""
    if isinstance(structure, Value):
        yield structure
    elif isinstance(structure, (tuple, list)):
        for each in structure:
            yield from values_in(each)
    elif isinstance(structure, dict):
        yield from values_in(list(structure.values()))


def rebuilt(structure: Any, change: Callable[[Any], Any]) -> Any:
    """`structure` of tuples, lists and dicts, with each leaf changed."""
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(rebuilt(each, change) for each in structure))
    if isinstance(structure, (tuple, list)):
        return type(structure)(rebuilt(each, change) for each in structure)
    if isinstance(structure, dict):
        return {key: rebuilt(each, change) for key, each in structure.items()}
    return change(structure)


def _places(place: str, structure: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors in tuples and lists, and the expressions that reach them."""
    if isinstance(structure, Tensor):
        yield place, structure
    elif isinstance(structure, (tuple, list)):
        for number, each in enumerate(structure):
            yield from _places(f"{place}[{number}]", each)
