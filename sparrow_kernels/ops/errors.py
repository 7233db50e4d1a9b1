"""The checks every public op makes, and the one shape their messages have.

A message reads *op: argument must be …, got … (hint)*. Wrong rank or shape raises `ValueError`,
a wrong dtype, device or kind of object `TypeError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import NoReturn

import torch
from torch import Tensor

Size = int | torch.SymInt
# What people pass who have the right thing in another form.
_OTHER_FORMS = {
    ("ancestors", torch.bool): "pack_ancestors makes 64-bit words of a mask [B, T, T]",
    ("ancestors", torch.int32): "words have 64 bits: see pack_ancestors",
}
_OTHER_WIDTHS = {
    (torch.int64, torch.int32): ".int()",
    (torch.int32, torch.int64): ".long()",
    (torch.float64, torch.float32): ".float()",
}
_KEEP = "once, outside the step, and keep the copy: an op that writes in place writes to it"


def refuse(op: str, argument: str, must_be: str, got: object, hint: str = "") -> NoReturn:
    """Raise the `ValueError` of an argument that cannot be taken."""
    raise ValueError(_message(op, argument, must_be, got, hint))


def refuse_type(op: str, argument: str, must_be: str, got: object, hint: str = "") -> NoReturn:
    """Raise the `TypeError` of an argument of the wrong kind, dtype or device."""
    raise TypeError(_message(op, argument, must_be, got, hint))


def _message(op: str, argument: str, must_be: str, got: object, hint: str) -> str:
    return f"{op}: {argument} must be {must_be}, got {got}" + (f" ({hint})" if hint else "")


def check_integer(op: str, argument: str, value: object) -> None:
    """A whole number of the host's: no bool, and no tensor, whose value would be waited for."""
    if type(value) is int or isinstance(value, torch.SymInt):
        return
    if not isinstance(value, Integral) or isinstance(value, bool):
        refuse_type(op, argument, "an integer", type(value).__name__, _on_host(value))


def check_number(op: str, argument: str, value: object) -> None:
    """A number of the host's."""
    if type(value) is float or isinstance(value, (torch.SymInt, torch.SymFloat)):
        return
    if not isinstance(value, Real) or isinstance(value, bool):
        refuse_type(op, argument, "a number", type(value).__name__, _on_host(value))


def _on_host(value: object) -> str:
    return "read it once, outside the step: .item()" if isinstance(value, Tensor) else ""


def check_tensor(
    op: str,
    argument: str,
    value: object,
    letters: str,
    dtypes: torch.dtype | Sequence[torch.dtype],
    sizes: dict[str, Size] | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Check one tensor argument and bind its shape letters.

    `letters` names the dims, such as ``"B T W"``; a letter already in `sizes` must match it, a new
    one is added there. A digit is a literal size; ``...`` in front admits any leading dims.
    Returns `value`, so that type checkers know it is a tensor.
    """
    if not isinstance(value, Tensor):
        must_be = f"a tensor [{', '.join(letters.split())}]"
        hint = f"pass its field: .{argument}" if hasattr(value, argument) else ""
        refuse_type(op, argument, must_be, type(value).__name__, hint)
    allowed = (dtypes,) if isinstance(dtypes, torch.dtype) else tuple(dtypes)
    if value.dtype not in allowed:
        names = " or ".join(str(d).removeprefix("torch.") for d in dict.fromkeys(allowed))
        hint = _OTHER_FORMS.get((argument, value.dtype), "")
        if not hint and (call := _OTHER_WIDTHS.get((value.dtype, allowed[0]))):
            hint = f"call {call} {_KEEP}"
        refuse_type(op, argument, names, str(value.dtype).removeprefix("torch."), hint)
    if device is not None and value.device != device:
        refuse_type(op, argument, f"on {device}", value.device, "all tensors of a call share one")
    _check_shape(op, argument, value, letters, {} if sizes is None else sizes)
    return value


def _check_shape(
    op: str, argument: str, value: Tensor, letters: str, sizes: dict[str, Size]
) -> None:
    names = letters.split()
    shape: Sequence[Size] = value.shape
    if names and names[0] == "...":
        names = names[1:]
        if value.dim() < len(names):
            refuse(op, argument, f"of at least {len(names)} dims", f"{list(value.shape)}")
        shape = shape[value.dim() - len(names) :]
    if len(shape) != len(names):
        refuse(op, argument, f"[{', '.join(names)}]", f"{list(value.shape)}")
    for name, size in zip(names, shape, strict=True):
        wanted = int(name) if name.isdigit() else sizes.setdefault(name, size)
        if wanted != size:
            known = [name if name.isdigit() else str(sizes.get(name, name)) for name in names]
            must_be = f"[{', '.join(names)}] = [{', '.join(known)}]"
            is_batch_of_cache = name == "B" and letters == "B Hkv N D"
            hint = "a cache in pages comes with its block_table=" if is_batch_of_cache else ""
            if argument in ("cos", "sin") and name == "D" and 2 * size == wanted:
                hint = "both halves, as transformers has them: torch.cat([x, x], dim=-1)"
            refuse(op, argument, must_be, f"{list(value.shape)}", hint)


def check_rows_are_dense(op: str, argument: str, value: Tensor) -> None:
    """Ops read rows with vector loads: the last dim must be contiguous."""
    if value.shape[-1] > 1 and value.stride(-1) != 1:
        if value.layout != torch.strided:
            layout = str(value.layout).removeprefix("torch.")
            refuse_type(op, argument, "a dense tensor", layout, "call .to_dense()")
        refuse(
            op,
            argument,
            "contiguous in its last dim",
            f"strides {list(value.stride())}",
            f"call .contiguous() {_KEEP}",
        )
