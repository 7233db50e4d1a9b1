"""Loading a target, its processor and its draft: the embedded pair, or directories of your own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from sparrow_kernels.drafting import SparrowDraft
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

    Args:
        dtype: also by name; "auto" for the one that the target was saved in.

    Raises:
        ValueError: the directory holds no transformers model.
    """
    path = EMBEDDED_WEIGHTS / "target" if directory is None else Path(directory)
    _check_holds_model("target", path, "train one with `sparrow train target`")
    target = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype).eval()
    return target, AutoProcessor.from_pretrained(path)


def load_draft(target: VidLLM, directory: str | Path | None = None) -> SparrowDraft:
    """The draft in `directory`, in the target's dtype; None for the embedded one.

    Raises:
        ValueError: the directory holds no draft, or one made for another target.
    """
    path = EMBEDDED_WEIGHTS / "draft" if directory is None else Path(directory)
    _check_holds_model("draft", path, "train one with `sparrow train draft`")
    draft = SparrowDraft.from_pretrained(path, dtype=target.dtype).eval().to(target.device)
    draft.check_fits(target)
    return draft


def load_pair(
    target_directory: str | Path | None = None, draft_directory: str | Path | None = None
) -> Pair:
    """The embedded pair, or another target and draft. See `load_target` and `load_draft`."""
    target, processor = load_target(target_directory)
    return Pair(target, load_draft(target, draft_directory), processor)


def _check_holds_model(role: str, path: Path, hint: str) -> None:
    if not (path / "config.json").is_file() or not list(path.glob("*.safetensors")):
        raise ValueError(
            f"{role} must be a directory with config.json and safetensors, got {path} ({hint})"
        )
