"""Cases of tree attention on float8 caches: the bytes, their scales, and what they mean."""

from __future__ import annotations

from dataclasses import replace

import torch
from attention_oracle import Case
from torch import Tensor

from sparrow_kernels.testing import assert_close

FLOAT8 = torch.float8_e4m3fn
NAN = 0x7F  # or with its sign, 0xFF
OF_EACH = ((False, False), (True, False), (False, True), (True, True))
"""Whether requests and KV heads have scales of their own."""


class Stored:
    """The keys and values of `case` in float8, of deviation 1, each head's scale another one."""

    def __init__(self, case: Case, of_each: tuple[bool, bool] = (True, True)) -> None:
        batch, heads = (
            size if own else 1 for size, own in zip(case.key.shape[:2], of_each, strict=True)
        )
        self.case = replace(case)
        steps = torch.arange(batch * heads, dtype=torch.float32).view(batch, heads)
        self.scales = {"key_scale": 0.011 + 0.002 * steps, "value_scale": 0.007 + 0.003 * steps}
        self.case.key = stored(case.key, self.scales["key_scale"])
        self.case.value = stored(case.value, self.scales["value_scale"])

    def meant(self) -> Case:
        """The case that they stand for, in float64."""
        other = replace(self.case)
        other.query = self.case.query
        other.key = meant(self.case.key, self.scales["key_scale"])
        other.value = meant(self.case.value, self.scales["value_scale"])
        return other

    def poisoned(self) -> Stored:
        """The same with NaN in every key and value that no row sees."""
        for b, rows in enumerate(self.case.rows):
            seen = {slot for row in range(len(rows)) for slot in self.case.seen(b, row)}
            unseen = [slot for slot in range(self.case.capacity) if slot not in seen]
            for cache in (self.case.key, self.case.value):
                cache.view(torch.uint8)[b, :, unseen] = NAN
        return self

    def run(self, device: str = "cpu", **more: object) -> tuple[Tensor, Tensor]:
        scales = {name: scale.to(device) for name, scale in self.scales.items()}
        return self.case.run(device, **scales, **more)

    def check(self, results: tuple[Tensor, Tensor]) -> None:
        exact = self.meant().expected()
        for name, result, wanted in zip(("out", "lse"), results, exact, strict=True):
            assert_close(result, wanted, name=name, summands=4.0)


def stored(rows: Tensor, scale: Tensor) -> Tensor:
    """What an engine keeps of float `rows` `[B, Hkv, N, D]`."""
    return (rows.float() / scale[:, :, None, None]).clamp(-448, 448).to(FLOAT8)


def meant(rows: Tensor, scale: Tensor) -> Tensor:
    return rows.double() * scale.double()[:, :, None, None]
