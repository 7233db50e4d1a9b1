"""Foreign drafts without a target in memory: what they are, and how they are kept from then on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig

from sparrow_kernels.drafting import SparrowDraft, SparrowDraftConfig
from sparrow_kernels.drafting.spec import DraftSpec
from sparrow_kernels.models.drafts.derivation import TargetFacts
from sparrow_kernels.models.drafts.files import DraftFiles, read_files
from sparrow_kernels.models.drafts.load import (
    check_asked_of_ours,
    convert,
    derived,
    is_ours,
    warn_of_notes,
)
from sparrow_kernels.models.pair import load_target


def inspected(path: str | Path, target: str | Path | None, **asked: Any) -> DraftSpec:
    """What a draft is.

    Args:
        target: a directory, of which the configuration alone is read; None to believe the draft's
            own about it.
        asked: `layer_ids`, `rope_theta`, `strict` and `settings` of `load_draft`.
    """
    files = read_files(path, pickled=True)
    if is_ours(files):
        check_asked_of_ours(asked["layer_ids"], asked["settings"])
        config = SparrowDraftConfig(**files.config)
        if target is not None:
            config.check_fits(_config_of(target))
        return DraftSpec.of(config)
    facts = TargetFacts.of_config(_config_of(target)) if target else _facts_by_itself(files)
    found = derived(files, facts, **asked)
    warn_of_notes(found)
    return DraftSpec.of(SparrowDraftConfig(**found.settings, derived=found.sources))


def converted(path: str | Path, target: str | Path, **asked: Any) -> tuple[SparrowDraft, bool]:
    """A draft in our format, and whether its weights were pickled. See `inspected`."""
    files = read_files(path, pickled=True)
    if is_ours(files):
        raise ValueError(f"draft {path}: must be of another format, got our own")
    model, _ = load_target(target, dtype="auto")
    draft = convert(files, TargetFacts.of(model), **asked)
    return draft, not list(files.folder.glob("*.safetensors"))


def _config_of(target: str | Path) -> Any:
    if not (Path(target) / "config.json").is_file():
        raise ValueError(f"target must be a directory with config.json, got {target}")
    return AutoConfig.from_pretrained(target)


def _facts_by_itself(files: DraftFiles) -> TargetFacts:
    """A target as the draft's own files speak of it; its depth they do not know."""
    nested = files.config.get("transformer_layer_config")
    config = {**files.config, **(nested if isinstance(nested, dict) else {})}
    hidden = config.get("target_hidden_size") or config.get("hidden_size")
    vocabulary = config.get("vocab_size")
    sizes: dict[str, Any] = {"hidden_size": hidden, "vocab_size": vocabulary}
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise ValueError(
                f"draft {files.where}: {name} in config.json must be a whole number of at least 1,"
                f" got {size!r} (or name the target: --target DIR)"
            )
    return TargetFacts(config.get("target_model_type") or "-", None, *sizes.values())
