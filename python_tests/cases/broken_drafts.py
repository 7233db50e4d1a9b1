"""Synthetic checkpoints with something changed, and the one line that refuses them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from draft_files import GROUPED_HEADS, DraftFiles, draft_files, write
from torch import Tensor

from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.models.drafts.derivation import TargetFacts
from sparrow_kernels.models.drafts.files import read_files
from sparrow_kernels.models.drafts.load import convert

SIZES = GROUPED_HEADS


def _table(seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(SIZES.vocab, SIZES.hidden, generator=random)


FACTS = TargetFacts(
    "qwen2_5_vl", SIZES.target_layers, SIZES.hidden, SIZES.vocab, _table(1), _table(2)
)


def changed(
    name: str = "specforge",
    config: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    without: Iterable[str] = (),
) -> DraftFiles:
    """A draft of format `name`; None as a value of `config` takes the key out."""
    files = draft_files(name, SIZES)
    settings = {**files.config, **(config or {})}
    weights = {**files.tensors, **(tensors or {})}
    return replace(
        files,
        config={key: value for key, value in settings.items() if value is not None},
        tensors={key: value for key, value in weights.items() if key not in set(without)},
    )


def converted(
    folder: Path,
    files: DraftFiles,
    facts: TargetFacts = FACTS,
    pickled: bool = False,
    **asked: Any,
) -> SparrowDraft:
    """Written, read and converted."""
    return convert(read_files(write(files, folder), pickled=pickled), facts, **asked)


def refusal(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> str:
    """What a call is refused with, which must be one line."""
    with pytest.raises(ValueError) as caught:
        call(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)
