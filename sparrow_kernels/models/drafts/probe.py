"""Trying a draft's settings on a few tokens: which of them its weights were trained with.

Files are silent or wrong about a few settings: how layers are counted, the base of the rotary
embedding, which half of a joined input comes first, whether the next level of a tree reads normed
outputs, whether the residual is normed. A wrong one loads without a word and costs most of the
acceptance. So the target writes some text, and the draft, fed the target's states, is asked for the
token after each, and for the one or two after that from its own outputs: the right setting agrees
with the target far more often than the others do.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.drafting.network import DraftNetwork
from sparrow_kernels.drafting.self_feeding import self_fed_outputs
from sparrow_kernels.models.drafts.texts import written_by
from sparrow_kernels.models.drafts.variants import Variant, alternatives
from sparrow_kernels.models.families import VidLLM

_PASSES = 3
_SIGMAS = 3.0
"""Standard errors that two settings must differ by."""
_FAR = 0.1
"""Share of tokens, below which another setting is not worth a warning."""


class Answers(NamedTuple):
    """What a draft says of each token of a text, pass by pass: `[n]` each."""

    surprise: Tensor
    """float32 cross-entropy in nats under the target's distribution."""
    is_best: Tensor
    """bool: its best id is the target's."""
    in_five: Tensor
    """bool: the target's best id is among its five."""


@dataclass(frozen=True)
class Tried:
    """One value of a setting, the others being what was found best."""

    value: Any
    top1: float
    """Share of tokens whose best id is the target's."""
    top5: float
    """Share of tokens with the target's best id among the draft's five."""
    is_chosen: bool
    """Whether the draft was loaded with it."""
    surprise: float
    """Mean cross-entropy in nats of the draft's distribution under the target's: what decides."""
    answers: Answers = field(repr=False, compare=False)


@dataclass(frozen=True)
class SettingProbe:
    """What was tried of one setting."""

    name: str
    tried: tuple[Tried, ...]

    @property
    def chosen(self) -> Tried:
        """What the draft was loaded with."""
        return next(one for one in self.tried if one.is_chosen)

    @property
    def alike(self) -> tuple[Tried, ...]:
        """What nothing else is surely ahead of, the nearest to the target first."""
        ranked = sorted(self.tried, key=lambda one: one.surprise)
        return tuple(one for one in ranked if not _is_ahead(ranked[0], one))

    @property
    def best(self) -> Tried:
        """The value that stands out; what was loaded where none does.

        Bases of a rotary embedding differ by degrees: neighbours of the best one are no rivals.
        """
        alike = self.alike
        is_told = len(alike) == 1 or self.name == "rope_theta"
        return alike[0] if is_told and self.chosen not in alike else self.chosen

    @property
    def verdict(self) -> str:
        """`as loaded` or `another` where a value stands out, else `none`."""
        if self.best is not self.chosen:
            return "another"
        return "as loaded" if self.alike == (self.chosen,) else "none"

    @property
    def is_behind(self) -> bool:
        """Whether what was loaded is surely behind another value."""
        return self.chosen not in self.alike


@dataclass(frozen=True)
class Probe:
    """What a draft's settings were found to be."""

    tokens: int
    chance: float
    """What a draft that always says the same would agree by, at best."""
    settings: tuple[SettingProbe, ...]
    agreement: float
    """Top-1 with what was found best."""
    knows: bool
    """Whether that is more than chance."""

    def __iter__(self) -> Iterator[SettingProbe]:
        return iter(self.settings)

    def verdict(self, name: str) -> str:
        """That of a setting; `none` for all where the draft agrees by chance alone."""
        found = next(one for one in self.settings if one.name == name)
        return found.verdict if self.knows else "none"

    @property
    def better(self) -> dict[str, Any]:
        """Settings that stand out and were not loaded."""
        found = (one for one in self.settings if self.verdict(one.name) == "another")
        return {one.name: one.best.value for one in found}


@torch.no_grad()
def probe(draft: SparrowDraft, target: VidLLM, ids: Tensor | None = None, prompt: int = 1) -> Probe:
    """Try the settings of `draft` that files get wrong.

    Args:
        draft: as it was loaded.
        ids: `[B, n]` int64 texts to try them on, best such as the target writes; None to have it
            write some.
        prompt: tokens at the beginning of each that the target has not written.
    """
    ids = (written_by(target) if ids is None else ids).to(target.device)
    output = target(input_ids=ids, output_hidden_states=True, use_cache=False)
    trial = _Trial(draft, target, ids, output.hidden_states, output.logits, prompt)
    chosen = Variant.of(draft)
    options = alternatives(draft)
    current = chosen
    for _ in range(2):  # what is wrong in one setting may hide what is wrong in another
        for name, values in options.items():
            current = current.with_(name, trial.setting(name, values, current, chosen).best.value)
    found = tuple(trial.setting(name, values, current, chosen) for name, values in options.items())
    answers = trial.answers(current, False)
    best = output.logits[:, prompt:].argmax(dim=-1).flatten()
    chance = float(best.bincount().max() / len(best))
    agreement = float(answers.is_best.float().mean())
    error = (agreement * (1 - agreement) / len(answers.is_best)) ** 0.5
    tokens = ids[:, prompt:].numel()
    return Probe(tokens, chance, found, agreement, agreement - _SIGMAS * error > chance)


def warn_of_settings(draft: SparrowDraft, target: VidLLM, where: str) -> None:
    """Warn where one of a draft's settings is far behind another value of it."""
    found = probe(draft, target)
    for one in found:
        if found.verdict(one.name) != "another":
            continue
        loaded, better = one.chosen, one.best
        if better.top1 - loaded.top1 > _FAR:
            warnings.warn(
                f"draft {where}: with {one.name} {shown(loaded.value)} it agrees with"
                f" {loaded.top1:.0%} of the target's tokens, with {shown(better.value)} with"
                f" {better.top1:.0%} ({hint(one)}; sparrow draft probe tries all of them)",
                stacklevel=3,
            )


def hint(one: SettingProbe) -> str:
    """How to load a draft with what was found better."""
    value = one.best.value
    if one.name in ("layer_ids", "rope_theta"):
        return f"load_draft(..., {one.name}={value!r})"
    return f"load_draft(..., settings={{{one.name!r}: {value!r}}})"


def shown(value: Any) -> str:
    """A setting's value for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"


class _Trial:
    """A text with the target's answers to it, for any variant of a draft."""

    def __init__(
        self,
        draft: SparrowDraft,
        target: VidLLM,
        ids: Tensor,
        states: Sequence[Tensor],
        logits: Tensor,
        prompt: int,
    ) -> None:
        self._loaded, self._states, self._first = Variant.of(draft), states, prompt - 1
        self._logits = logits.float()
        self._network = draft.network_for(target.get_input_embeddings().weight)
        has_own = self._network.shape.embedding_size
        embedding = self._network.embedding if has_own else target.get_input_embeddings()
        self._embedded, self._lm_head = embedding(ids[:, 1:]), target.get_output_embeddings()

    def setting(
        self, name: str, values: list[Any], current: Variant, chosen: Variant
    ) -> SettingProbe:
        """Each value of a setting, the others as in `current`."""
        tried = []
        for value in values:
            answers = self.answers(current.with_(name, value), name == "feeds_normed")
            surprise, top1, top5 = (float(each.float().mean()) for each in answers)
            is_chosen = value == getattr(chosen, name)
            tried.append(Tried(value, top1, top5, is_chosen, surprise, answers))
        return SettingProbe(name, tuple(tried))

    def answers(self, variant: Variant, deeper: bool) -> Answers:
        """What the draft says so: from the target's states, or `deeper`, from its own outputs."""
        network = variant.network(self._network, self._loaded)
        layers = variant.layer_ids or (len(self._states) - 1,)
        hidden = torch.cat([self._states[each] for each in layers], dim=-1)[:, :-1]
        outputs = self_fed_outputs(
            network,
            self._embedded.to(network.mlp_norm.dtype),
            hidden.to(network.mlp_norm.dtype),
            _PASSES if deeper else 1,
            variant.rope_theta,
        )
        passes = []
        for depth in range(int(deeper), len(outputs)):
            first = max(self._first, depth)  # the first rows of a later pass have no root
            rows = outputs[depth][:, first:]
            passes.append(self._answers(network, rows, self._logits[:, 1 + first :]))
        return Answers(*(torch.cat(each).cpu() for each in zip(*passes, strict=True)))

    def _answers(self, network: DraftNetwork, outputs: Tensor, target_logits: Tensor) -> Answers:
        outputs, target_logits = outputs.flatten(0, 1), target_logits.flatten(0, 1)
        best = target_logits.argmax(dim=-1, keepdim=True)
        headed = network.headed(outputs)
        if network.shape.head_size:
            logits, ids = network.head(headed), network.draft_ids
            target_logits = target_logits[:, ids]
        else:
            logits, ids = self._lm_head(headed), None
        log_probs = logits.float().log_softmax(dim=-1)
        surprise = -(target_logits.softmax(dim=-1) * log_probs).sum(dim=-1)
        five = log_probs.topk(5, dim=-1).indices
        same = (five if ids is None else ids[five]) == best
        return Answers(surprise, same[:, 0], same.any(dim=-1))


def _is_ahead(one: Tried, other: Tried) -> bool:
    """Whether one variant is surely nearer to the target than another, token by token."""
    won = other.answers.surprise - one.answers.surprise
    return float(won.mean()) > _SIGMAS * float(won.std()) / len(won) ** 0.5
