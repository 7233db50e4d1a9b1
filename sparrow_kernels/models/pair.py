"""Loading a target, its processor and its draft: the embedded pair, or directories of your own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)

from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.models.drafts.load import load_draft
from sparrow_kernels.models.families import VidLLM

EMBEDDED_WEIGHTS = Path(__file__).resolve().parents[1] / "embedded" / "weights"


class Pair(NamedTuple):
    """Everything needed to ask about a clip."""

    target: VidLLM
    draft: SparrowDraft
    processor: Any


def load_target(
    directory: str | Path | None = None, *, dtype: torch.dtype | str = torch.float32
) -> tuple[VidLLM, Any]:
    """A target and its processor; None for the embedded one.

    A target that reads text alone has its tokenizer in the processor's place.

    Args:
        dtype: also by name; "auto" for the one that the target was saved in.

    Raises:
        ValueError: the directory holds no transformers model.
    """
    path = EMBEDDED_WEIGHTS / "target" if directory is None else Path(directory)
    if not (path / "config.json").is_file() or not list(path.glob("*.safetensors")):
        raise ValueError(
            f"target must be a directory with config.json and safetensors, got {path} (train one"
            " with `sparrow train target`)"
        )
    sees = type(AutoConfig.from_pretrained(path)) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    model: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    reader: Any = AutoProcessor if sees else AutoTokenizer
    return model.from_pretrained(path, dtype=dtype).eval(), reader.from_pretrained(path)


def draft_for(
    target: VidLLM,
    path: str | Path | None = None,
    *,
    positions: str | None = None,
    sees_clip: str | None = None,
) -> SparrowDraft:
    """The draft at `path`, as `load_draft` reads it; None for the embedded one."""
    path = EMBEDDED_WEIGHTS / "draft" if path is None else path
    return load_draft(path, target, positions=positions, sees_clip=sees_clip)


def load_pair(
    target_directory: str | Path | None = None, draft_directory: str | Path | None = None
) -> Pair:
    """The embedded pair, or another target and draft. See `load_target` and `draft_for`."""
    target, processor = load_target(target_directory)
    return Pair(target, draft_for(target, draft_directory), processor)
