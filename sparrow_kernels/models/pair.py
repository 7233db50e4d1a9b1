"""Loading a target, its processor and its draft: the embedded pair, or directories of your own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)

from sparrow_kernels.drafting import SparrowDraft, SparrowDraftConfig
from sparrow_kernels.drafting.families import NEEDED
from sparrow_kernels.drafting.requirements import check_served
from sparrow_kernels.models.drafts.load import load_draft
from sparrow_kernels.models.families import VidLLM
from sparrow_kernels.models.plain_processor import PlainProcessor, serves
from sparrow_kernels.video_shim import unavailable

EMBEDDED_WEIGHTS = Path(__file__).resolve().parents[1] / "embedded" / "weights"


class Pair(NamedTuple):
    """Everything needed to ask about a clip."""

    target: VidLLM
    draft: SparrowDraft
    processor: Any


def embedded_weights(world: str = "easy") -> Path:
    """The folder of the embedded pair of a world, which holds `target` and `draft`."""
    return EMBEDDED_WEIGHTS if world == "easy" else EMBEDDED_WEIGHTS / world


def load_target(
    directory: str | Path | None = None,
    *,
    dtype: torch.dtype | str = torch.float32,
    world: str = "easy",
) -> tuple[VidLLM, Any]:
    """A target and its processor; None for the embedded one of a world.

    A target that reads text alone has its tokenizer in the processor's place. Where torchvision
    cannot be imported, a Qwen2-VL or Qwen2.5-VL gets one of ours, for text and clips.

    Args:
        dtype: also by name; "auto" for the one that the target was saved in.

    Raises:
        ValueError: the directory holds no transformers model, or one of a family that is not
            served: said before its weights are read.
        ImportError: its processor needs a torchvision that cannot be imported.
    """
    path = embedded_weights(world) / "target" if directory is None else Path(directory)
    if not (path / "config.json").is_file() or not list(path.glob("*.safetensors")):
        raise ValueError(
            f"target must be a directory with config.json and safetensors, got {path} (of the hub's"
            " fetch one with `hf download`; `sparrow train target` makes a small one)"
        )
    config = AutoConfig.from_pretrained(path)
    if directory is not None:
        _check_family(config)
    processor = _processor(path, _sees(config))
    return _kind_of(config).from_pretrained(path, dtype=dtype).eval(), processor


def check_embedded_draft(directory: str | Path) -> None:
    """Raise `ValueError` where the embedded draft is for another target than the one in
    `directory`, or that one is not served; no weights are read for it."""
    config = AutoConfig.from_pretrained(directory)
    _check_family(config)
    try:
        SparrowDraftConfig.from_pretrained(_embedded_draft(config)).check_fits(config)
    except ValueError as error:
        raise ValueError(
            f"draft must be named for {directory}, got none, and the embedded one"
            f" {str(error).removeprefix('draft: ')}"
        ) from None


def _embedded_draft(config: Any) -> Path:
    return embedded_weights(getattr(config, "embedded_world", "easy")) / "draft"


def _sees(config: Any) -> bool:
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def _kind_of(config: Any) -> Any:
    return AutoModelForImageTextToText if _sees(config) else AutoModelForCausalLM


def _check_family(config: Any) -> None:
    """Refuse a target that is not served before its weights are read, which may take minutes."""
    generates = (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING)
    if not any(type(config) in mapping for mapping in generates):
        raise ValueError(
            f"target must generate text with a decoder alone, got family {config.model_type!r}"
            f" ({NEEDED})"
        )
    with torch.device("meta"):
        check_served(_kind_of(config).from_config(config))


def _processor(path: Path, sees: bool) -> Any:
    lacking = unavailable() if sees else None
    if lacking is not None and serves(path):
        return PlainProcessor(path)
    if lacking is not None:
        raise ImportError(f"the processor of {path} needs torchvision: {lacking}")
    kind = AutoProcessor if sees else AutoTokenizer
    try:
        return kind.from_pretrained(path)
    except (OSError, ValueError) as error:
        what = "processor" if sees else "tokenizer"
        raise ValueError(
            f"target must have its {what} beside its weights, got none that loads in {path} (fetch"
            f" the whole repository): {error}"
        ) from error


def draft_for(
    target: VidLLM,
    path: str | Path | None = None,
    *,
    positions: str | None = None,
    sees_clip: str | None = None,
) -> SparrowDraft:
    """The draft at `path`, as `load_draft` reads it; None for the target's embedded one."""
    if path is None:
        path = _embedded_draft(target.config)
    return load_draft(path, target, positions=positions, sees_clip=sees_clip)


def load_pair(
    target_directory: str | Path | None = None,
    draft_directory: str | Path | None = None,
    *,
    world: str = "easy",
) -> Pair:
    """An embedded pair, or another target and draft. See `load_target` and `draft_for`."""
    target, processor = load_target(target_directory, world=world)
    return Pair(target, draft_for(target, draft_directory), processor)
