"""Every case there is: by op, for a run of some size, or of a shape given by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from bench.case import Case
from bench.cases import (
    accept,
    attention,
    batches,
    cache,
    commit,
    draft,
    pages,
    sampling,
    tree,
    window,
)
from bench.selection import Selection

_FAMILIES = (tree, accept, sampling, commit, cache, attention, batches, draft, window, pages)


def cases(selection: Selection, families: Sequence[str] | None = None) -> list[Case]:
    """What a run of `selection` measures; of some families only, if given.

    Raises:
        ValueError: no such family.
    """
    known = {family.__name__.rsplit(".", 1)[1]: family for family in _FAMILIES}
    unknown = set(families or ()) - set(known)
    if unknown:
        raise ValueError(f"--family must be of {', '.join(known)}, got {', '.join(unknown)}")
    return [case for name in families or known for case in known[name].cases(selection)]


def kinds() -> dict[str, list[type[Case]]]:
    """The classes of cases by the public name of their op."""
    found: dict[str, list[type[Case]]] = {}
    for family in _FAMILIES:
        for kind in family.KINDS:
            found.setdefault(kind.op, []).append(kind)
    return found


def shaped(op: str, shape: Mapping[str, str], dtype: torch.dtype) -> list[Case]:
    """The cases of `op` at their default shape, changed as `shape` says.

    Raises:
        ValueError: no such op, or no case of it has one of the words of `shape`.
    """
    known = kinds()
    if op not in known:
        raise ValueError(f"--op must be one of {', '.join(sorted(known))}, got {op!r}")
    made = []
    for kind in known[op]:
        case = replace(kind(), dtype=dtype)  # type: ignore[type-var]
        words = case.words()
        if set(shape) <= set(words):
            changes = {words[word]: _value(case, words[word], shape[word]) for word in shape}
            made.append(replace(case, **changes))  # type: ignore[type-var]
    if not made:
        had = sorted({word for kind in known[op] for word in kind().words()})
        raise ValueError(f"--shape of {op} takes {', '.join(had)}, got {', '.join(shape)}")
    return made


def _value(case: Case, field: str, text: str) -> object:
    kind = type(getattr(case, field))
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"--shape {field} must be a {kind.__name__}, got {text!r}") from None
