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
    forms,
    pages,
    prefill,
    sampling,
    tree,
    window,
)
from bench.selection import Selection
from bench.shapes import MODELS, Model, name_of

_FAMILIES = (
    tree, accept, sampling, commit, cache, attention, forms, batches, draft, window, pages,
    prefill,
)  # fmt: skip


def cases(selection: Selection, families: Sequence[str] | None = None) -> list[Case]:
    """What a run of `selection` measures; of some families only, if given.

    Raises:
        ValueError: no such family.
    """
    known = {family.__name__.rsplit(".", 1)[1]: family for family in _FAMILIES}
    unknown = set(families or ()) - set(known)
    if unknown:
        raise ValueError(f"--family must be of {', '.join(known)}, got {', '.join(unknown)}")
    return [
        case for name in dict.fromkeys(families or known) for case in known[name].cases(selection)
    ]


def kinds() -> dict[str, list[type[Case]]]:
    """The classes of cases by the public name of their op."""
    found: dict[str, list[type[Case]]] = {}
    for family in _FAMILIES:
        for kind in family.KINDS:
            found.setdefault(kind.op, []).append(kind)
    return found


def shaped(
    op: str, shape: Mapping[str, str], usual: torch.dtype, dtype: torch.dtype | None = None
) -> list[Case]:
    """The cases of `op` at their default shape, changed as `shape` says; in `dtype`, if given,
    else as a run of every op has them where `usual` is the usual dtype.

    Raises:
        ValueError: no such op, no case of it in that dtype, none with the words of `shape`, or one
            that cannot be.
    """
    known = kinds()
    if op not in known:
        raise ValueError(f"--op must be one of {', '.join(sorted(known))}, got {op!r}")
    made = []
    for kind in known[op]:
        case = kind()
        if not kind.HAS_ONE_DTYPE:
            case = replace(case, dtype=dtype or usual)  # type: ignore[type-var]
        elif dtype not in (None, case.dtype):
            only = str(case.dtype).removeprefix("torch.")
            raise ValueError(f"--dtype: {op} takes {only} alone")
        words = case.words()
        asked = _by_model(case, shape) if "model" in words else shape
        if set(asked) <= set(words):
            changes = {words[word]: _value(case, word, asked[word]) for word in asked}
            made.append(replace(case, **changes))  # type: ignore[type-var]
    if not made:
        raise ValueError(_no_case(op, known[op], shape))
    for each in made:
        if (reason := each.contradiction()) is not None:
            raise ValueError(f"--shape: there is no {op} {each.name}: {reason}")
    return made


def _no_case(op: str, of_op: Sequence[type[Case]], shape: Mapping[str, str]) -> str:
    """Why none of its cases has the words of `shape`."""
    had = sorted({word for kind in of_op for word in _words(kind())})
    if not set(shape) <= set(had):
        return f"--shape of {op} takes {', '.join(had)}, got {', '.join(shape)}"
    apart = " or ".join(", ".join(kind.words()) for kind in of_op)
    return f"--shape: no {op} has all of {', '.join(shape)}; they have {apart}"


def _words(case: Case) -> set[str]:
    words = set(case.words())
    return words | set(Model._fields) if "model" in words else words


def _by_model(case: Case, shape: Mapping[str, str]) -> Mapping[str, str]:
    """`shape` with `heads=16,kv_heads=2` and the like as the name of a model of these sizes."""
    sizes = {word: shape[word] for word in Model._fields if word in shape}
    model = MODELS[shape.get("model", case.model)]  # type: ignore[attr-defined]
    if not sizes:
        return shape
    model = model._replace(**{word: _number(word, sizes[word], 1) for word in sizes})
    rest = {word: text for word, text in shape.items() if word not in sizes}
    return rest | {"model": name_of(MODELS["/".join(map(str, model))])}


_MAY_BE_ZERO = ("prefix", "visual", "anchors", "window", "percent", "refused", "levels")


def _value(case: Case, word: str, text: str) -> object:
    usual = getattr(case, case.words()[word])
    if type(usual) is int:
        return _number(word, text, 0 if word in _MAY_BE_ZERO else 1)
    if word == "model":
        return text
    choices = {str(choice): choice for choice in case.CHOICES.get(word, (usual,))}
    if text not in choices:
        raise ValueError(f"--shape {word} must be one of {', '.join(choices)}, got {text!r}")
    return choices[text]


def _number(word: str, text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise ValueError(f"--shape {word} must be a whole number from {least} on, got {text!r}")
    return int(text)
