"""`load_draft`: any draft that is public, as one of ours."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sparrow_kernels.drafting import SparrowDraft, SparrowDraftConfig
from sparrow_kernels.models.drafts import eagle2, eagle3
from sparrow_kernels.models.drafts.derivation import Derivation, TargetFacts, positive
from sparrow_kernels.models.drafts.files import DraftFiles, read_files
from sparrow_kernels.models.drafts.layer import (
    ForeignLayer,
    check_vocabulary,
    take_embedding,
    take_head,
    take_rotary,
)
from sparrow_kernels.models.drafts.probe import warn_of_settings
from sparrow_kernels.models.families import Parts, VidLLM

TRIED = ("norm_before_residual", "feeds_normed")
"""Settings that files get wrong and `settings` may overrule, beside `state_first`."""


def load_draft(
    path: str | Path,
    target: VidLLM,
    *,
    positions: str | None = None,
    layer_ids: Sequence[int] | None = None,
    rope_theta: float | None = None,
    sees_clip: str | None = None,
    strict: bool = True,
    settings: Mapping[str, bool] | None = None,
    probe: bool = True,
) -> SparrowDraft:
    """Load a draft in any public format: EAGLE-2, MSD, ViSpec, HiViS, Sparrow; EAGLE 3 and 3.1 by
    SpecForge, AngelSlim, speculators; our own.

    The format is told by names and shapes of weights, then by `config.json`, then by the caller.
    `draft.spec` says what was derived and from where.

    Args:
        path: a directory with `config.json` and safetensors, or `owner/name` on the hub, where a
            subfolder may follow. Only the files needed are fetched.
        target: the model it drafts for; the draft takes its dtype and device.
        positions: `compact` counts the rows the draft has (the default), `sequence` all tokens,
            `mrope` goes by the target's own positions.
        layer_ids: which of the target's hidden states it reads, as indices in transformers' tuple,
            0 the embedding.
        rope_theta: base of its rotary embedding.
        sees_clip: `nothing` (the default): it reads the text alone, and its cost does not grow with
            the clip. `trained`: it sees of a clip what it saw in training; or one of
            `drafting.rows.SIGHTS` by name.
        strict: refuse what is not understood, such as a weight of an unknown name, and a vocabulary
            or family that is not the target's. False: warn. Weights that are missing or of a wrong
            shape are refused in any case.
        settings: what the file does not say, or says wrongly: `norm_before_residual`,
            `feeds_normed`, `state_first` (the state stands before the embedding where they are
            joined). `sparrow draft probe` tries them.
        probe: have the target write a few words, and warn where another setting than one that was
            derived agrees with them far better. Not done where it would take minutes: for a target
            of over a billion weights on a CPU, or one whose weights are offloaded.

    Raises:
        TypeError: `target` is no model of transformers, or `path` no path.
        ValueError: it is one that is not served; no such draft, one that cannot be read whole, of
            no known format, or made for another target.
    """
    device = Parts(target).device
    files = read_files(path)
    options: dict[str, Any] = {"layer_ids": layer_ids, "rope_theta": rope_theta}
    options |= {"strict": strict, "settings": settings or {}}
    if is_ours(files):
        draft = _ours(files, target, **options)
    else:
        draft = convert(files, TargetFacts.of(target), **options)
    switch(draft.config, positions=positions, sees_clip=sees_clip)
    draft.check_fits(target)
    module: torch.nn.Module = draft
    module.to(device=device, dtype=target.dtype)
    draft.eval()
    if probe and not is_ours(files) and _is_quick(target):
        warn_of_settings(draft, target, str(path))
    return draft


def _is_quick(target: VidLLM) -> bool:
    devices = {each.device.type for each in target.parameters()}
    weights = sum(each.numel() for each in target.parameters())
    return "meta" not in devices and ("cpu" not in devices or weights < 1e9)


def is_ours(files: DraftFiles) -> bool:
    """Whether a draft was saved by this package."""
    return files.config.get("model_type") == SparrowDraftConfig.model_type


def switch(config: SparrowDraftConfig, **asked: str | None) -> None:
    """Set how a draft reads prompts, where it was asked for."""
    for name, value in asked.items():
        if value is None:
            continue
        if (name, value) == ("sees_clip", "trained"):
            value = config.trained_to_see
        setattr(config, name, value)
        config.derived[name] = "caller"
    config.row_rules()  # refuses what it cannot see


def convert(
    files: DraftFiles,
    facts: TargetFacts,
    *,
    layer_ids: Sequence[int] | None = None,
    rope_theta: float | None = None,
    strict: bool = True,
    settings: Mapping[str, bool] | None = None,
) -> SparrowDraft:
    """A foreign draft as one of ours, in the dtype it was saved in. See `load_draft`."""
    found = derived(files, facts, layer_ids, rope_theta, strict, settings or {})
    warn_of_notes(found)
    with torch.device("meta"):
        draft = SparrowDraft(SparrowDraftConfig(**found.settings, derived=found.sources))
    dtype = found.dtype
    weights = {
        f"network.{name}": weight.to(dtype) if weight.is_floating_point() else weight
        for name, weight in found.weights.items()
    }
    draft.load_state_dict(weights, strict=True, assign=True)
    return draft


def warn_of_notes(found: Derivation) -> None:
    """Say what was let pass."""
    for note in found.notes:
        warnings.warn(f"draft {found.where}: {note}", stacklevel=4)


def derived(
    files: DraftFiles,
    facts: TargetFacts,
    layer_ids: Sequence[int] | None,
    rope_theta: float | None,
    strict: bool,
    settings: Mapping[str, bool],
) -> Derivation:
    """Settings and weights of a foreign draft."""
    unknown = sorted(set(settings) - {*TRIED, "state_first"})
    if unknown:
        raise ValueError(
            f"settings must be of {', '.join((*TRIED, 'state_first'))}, got {', '.join(unknown)}"
        )
    found = Derivation(files, facts, strict)
    found.put("target_model_type", facts.model_type, "target")
    found.put("target_layers", facts.layers or 0, "target" if facts.layers else "name the target")
    found.put("vocab_size", facts.vocabulary, "target")
    layer = ForeignLayer(found)
    swapped = bool(settings.get("state_first", False))
    found.put("state_first", swapped, "caller" if swapped else "default")
    layer.take()
    take_rotary(found, rope_theta)
    if layer.inputs == 2 * layer.hidden:
        name = eagle3.derive(found, layer, swapped, layer_ids)
    elif layer.inputs == layer.hidden:
        if layer_ids is not None:
            found.refuse(
                "layer_ids must be left out, got some for a draft that reads the top state"
            )
        name = eagle2.derive(found, layer, swapped)
    else:
        found.refuse(
            f"q_proj must read {layer.hidden} or {2 * layer.hidden} channels, got {layer.inputs}"
        )
    take_embedding(found, layer.hidden)
    take_head(found, layer.hidden)
    check_vocabulary(found)
    for setting in TRIED:
        if setting in settings:
            found.put(setting, bool(settings[setting]), "caller")
    if found.settings.get("feeds_normed") and not found.settings["final_norm"]:
        found.refuse("feeds_normed must be left out, got it for a draft without a final norm")
    found.check_all_taken()
    found.put("source_format", name, "keys")
    return found


def check_asked_of_ours(layer_ids: Sequence[int] | None, settings: Mapping[str, bool]) -> None:
    """Refuse what a draft of our own format says itself."""
    if layer_ids is not None or settings:
        raise ValueError(
            "layer_ids and settings must be left out, got some for a draft of our own format (they"
            " are for files that do not say)"
        )


def _ours(
    files: DraftFiles,
    target: VidLLM,
    *,
    layer_ids: Sequence[int] | None,
    rope_theta: float | None,
    strict: bool,
    settings: Mapping[str, bool],
) -> SparrowDraft:
    check_asked_of_ours(layer_ids, settings)
    base = positive(files.where, "rope_theta", rope_theta)
    kept: Any = SparrowDraft.from_pretrained(
        files.folder, dtype=target.dtype, ignore_mismatched_sizes=True, output_loading_info=True
    )
    draft, read = kept
    # transformers fills in random numbers for these.
    wrong = sorted({*read["missing_keys"], *(each[0] for each in read["mismatched_keys"])})
    if wrong:
        raise ValueError(
            f"draft {files.where}: must have {', '.join(wrong)} in the shapes of config.json, got"
            " none (half a draft is not loaded)"
        )
    if unknown := sorted(read["unexpected_keys"]):
        said = f"draft {files.where}: must have no weights that are not understood, got"
        said += f" {', '.join(unknown)}"
        if strict:
            raise ValueError(f"{said} (strict=False loads it all the same)")
        warnings.warn(said, stacklevel=3)
    if base is not None:
        draft.config.rope_theta = base
        draft.config.derived["rope_theta"] = "caller"
    return draft
