"""Behind the prefill the host looks at the device in one place only: what a step emitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from family_cases import VOCABULARY, draft_for, prompts, tiny, turns, written
from mimic_draft import mimic
from torch import Tensor

from sparrow_kernels.models import SparrowDecoder
from sparrow_kernels.models import generate as generate_module
from sparrow_kernels.models.emission import Emission
from sparrow_kernels.ops.registry import Op

_LOOKS = ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "numpy", "nonzero")
_MAKES = ("tensor", "as_tensor", "from_numpy", "nonzero")
"""On a GPU a tensor made from Python values waits for its copy."""


class Guard:
    """Fails on any look at a tensor while it is on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_on = False
        self.is_armed = True
        self.looks = 0
        for name in _LOOKS:
            monkeypatch.setattr(Tensor, name, self._guarded(getattr(Tensor, name), name))
        for name in (*_MAKES, "is_nonzero"):
            monkeypatch.setattr(torch, name, self._guarded(getattr(torch, name), f"torch.{name}"))
        for name in ("new_tensor", "__setitem__"):
            monkeypatch.setattr(Tensor, name, self._guarded(getattr(Tensor, name), name))

    def _guarded(self, honest: Callable[..., Any], name: str) -> Callable[..., Any]:
        def guarded(*arguments: Any, **keywords: Any) -> Any:
            if self.is_on and not (name == "__setitem__" and _fills(*arguments)):
                raise AssertionError(f"{name} in the loop waits for the device")
            return honest(*arguments, **keywords)

        return guarded

    @contextmanager
    def set(self, is_on: bool) -> Iterator[None]:
        before, self.is_on = self.is_on, is_on and self.is_armed
        try:
            yield
        finally:
            self.is_on = before


def _fills(tensor: Tensor, place: Any, value: Any) -> bool:
    """Whether an assignment stays on the device: a number is copied to a place of no dimensions."""
    return isinstance(value, Tensor) or tensor[place].dim() > 0


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Guard:
    """On during the loop, off where a step is emitted, and in ops: on a CPU they may read lengths,
    on a GPU tests of their own hold them to none."""
    made = Guard(monkeypatch)
    decode, take, call = generate_module.decode, Emission.take, Op.__call__

    def called(self: Op, *arguments: Any, **keywords: Any) -> Any:
        with made.set(False):
            return call(self, *arguments, **keywords)

    monkeypatch.setattr(Op, "__call__", called)

    def watched(*arguments: Any, **keywords: Any) -> None:
        with made.set(True):
            decode(*arguments, **keywords)

    def emitting(self: Emission, emitted: Tensor) -> Any:
        made.looks += 1
        with made.set(False):
            return take(self, emitted)

    monkeypatch.setattr(generate_module, "decode", watched)
    monkeypatch.setattr(Emission, "take", emitting)
    return made


CHATS = [turns(8, "What happens?"), turns("Why?")]


@pytest.mark.slow
@pytest.mark.parametrize("tree", ["6-5-1", "30-4-8", "4x2x1", "64-5-8:marginals"])
@pytest.mark.parametrize(
    "settings", [{}, {"do_sample": True, "top_p": 0.9, "top_k": 40, "min_p": 0.01}]
)
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "llava_onevision", "Llama"])
def test_a_step_waits_once(
    name: str, tree: str, settings: dict[str, Any], guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, processor = tiny(name)
    chats = CHATS if name != "Llama" else [turns("Why is that?"), turns("Why?")]
    inputs = prompts(processor, *chats)
    settings = {"max_new_tokens": 16, "eos_token_id": 319, "do_sample": False, **settings}
    plain = written(name, inputs, **{**settings, "do_sample": False})
    mimic(monkeypatch, plain, VOCABULARY)
    decoder = SparrowDecoder(target, draft_for(name), tree)
    for decode in (decoder.generate, decoder.generate_plainly):
        guard.is_armed = False
        decode(**inputs, **settings)  # constants of a tree's shape are made once
        guard.is_armed, guard.looks = True, 0
        stats = decode(**inputs, **settings).stats
        assert guard.looks == max(stats.target_calls)


def test_the_guard_sees_a_look(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparrow_kernels.decoding import Step

    honest = Step.verify

    def looking(self: Step) -> None:
        honest(self)
        bool(self.active.any())

    monkeypatch.setattr(Step, "verify", looking)
    target, processor = tiny("qwen2_5_vl")
    decoder = SparrowDecoder(target, draft_for("qwen2_5_vl"), "6-5-1")
    with pytest.raises(AssertionError, match="__bool__ in the loop"):
        decoder.generate(**prompts(processor, CHATS[0]), max_new_tokens=4, do_sample=False)
