"""What the tests of targets that are refused share."""

from __future__ import annotations

from typing import Any

import torch
from family_cases import prompts, tiny, turns

from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.models import SparrowDecoder

FULL = {"layer_types": ["full_attention"] * 3}
PAGE = r"docs/adding-a-model\.md"


def decoded(target: Any, inputs: dict[str, Any]) -> torch.Tensor:
    draft = SparrowDraft.for_target(target, initializer_range=0.1)
    settings = {"max_new_tokens": 8, "do_sample": False}
    return SparrowDecoder(target.eval(), draft, "6-5-1").generate(**inputs, **settings).sequences


def question() -> dict[str, Any]:
    return prompts(tiny("Llama").processor, turns("Why?"))
