"""A recording as one Python function, without what it does twice and what nobody reads."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from sparrow_kernels.decoding.recording import Call, Recording, Value, rebuilt, values_in

_LITERALS = (bool, int, str, type(None))


def function_of(recording: Recording, wanted: Any) -> Callable[[Any], Any]:
    """A function that makes the calls of `recording` again, from what is given to what is wanted.

    Args:
        wanted: tensors that the part has made, in tuples and lists.
    """
    calls, result = _once(recording.calls, recording.named(wanted))
    calls = _read(calls, result)
    names: dict[str, Any] = dict(recording.found)
    lines = [f"{value} = {place}" for value, place in recording.places]
    for number, (call, dead) in enumerate(zip(calls, _dead(calls, result), strict=True)):
        names[f"call{number}"] = call.function
        arguments = [_written(each, names) for each in call.arguments]
        arguments += [f"{key}={_written(each, names)}" for key, each in call.keywords.items()]
        results = ", ".join(map(str, call.results))
        results += "," if call.is_several and len(call.results) == 1 else ""
        lines.append(f"{results + ' = ' if results else ''}call{number}({', '.join(arguments)})")
        lines += [f"del {', '.join(dead)}"] if dead else []
    lines.append(f"return {_written(result, names)}")
    source = "\n    ".join(["def replay(given):", *lines])
    exec(compile(source, "<recorded step>", "exec"), names)  # written above, from names of our own
    return names["replay"]


def _once(calls: list[Call], result: Any) -> tuple[list[Call], Any]:
    """`calls` without repeats of what nobody writes to, and `result` by the names that remain."""
    written = {value.memory for call in calls for value in call.written}
    first: dict[Hashable, Call] = {}
    same: dict[str, Value] = {}

    def known(leaf: Any) -> Any:
        return same.get(leaf.name, leaf) if isinstance(leaf, Value) else leaf

    kept = []
    for call in calls:
        call = call._replace(
            arguments=rebuilt(call.arguments, known), keywords=rebuilt(call.keywords, known)
        )
        values = (*values_in(call.arguments), *values_in(call.keywords), *call.results)
        key = (call.operator, _key(call.arguments), _key(call.keywords))
        if call.has_effect or any(value.memory in written for value in values):
            kept.append(call)
        elif key in first:
            pairs = zip(call.results, first[key].results, strict=True)
            same |= {new.name: old for new, old in pairs}
        else:
            first[key] = call
            kept.append(call)
    return kept, rebuilt(result, known)


def _key(structure: Any) -> Hashable:
    if isinstance(structure, (tuple, list)):
        return (type(structure), *map(_key, structure))
    if isinstance(structure, dict):
        return tuple((key, _key(each)) for key, each in structure.items())
    return (type(structure), structure.name if isinstance(structure, Value) else repr(structure))


def _read(calls: list[Call], result: Any) -> list[Call]:
    """`calls` without those that only make what nobody reads."""
    needed = {value.name for value in values_in(result)}
    kept = []
    for call in reversed(calls):
        if call.has_effect or any(value.name in needed for value in call.results):
            kept.append(call)
            read = (*values_in(call.arguments), *values_in(call.keywords))
            needed |= {value.name for value in read}
    return kept[::-1]


def _dead(calls: list[Call], result: Any) -> list[list[str]]:
    """After each call what nobody reads any more."""
    later = {value.name for value in values_in(result)}
    dead = []
    for call in reversed(calls):
        read = (*values_in(call.arguments), *values_in(call.keywords))
        names = {value.name for value in (*read, *call.results) if not value.is_found} - later
        later |= names
        dead.append(sorted(names))
    return dead[::-1]


def _written(structure: Any, names: dict[str, Any]) -> str:
    """Python for `structure`; what has no literal gets a name."""
    if isinstance(structure, Value):
        return structure.name
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        parts = ", ".join(_written(each, names) for each in structure)
        return f"{_named(type(structure), names)}({parts})"
    if isinstance(structure, (tuple, list)):
        parts = ", ".join(_written(each, names) for each in structure)
        return f"[{parts}]" if isinstance(structure, list) else f"({parts}{',' * bool(parts)})"
    return repr(structure) if type(structure) in _LITERALS else _named(structure, names)


def _named(thing: Any, names: dict[str, Any]) -> str:
    name = f"constant{len(names)}"
    names[name] = thing
    return name
