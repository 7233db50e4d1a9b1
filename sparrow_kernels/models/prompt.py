"""What a family's own code makes of a prompt, taken at the language model's door.

The family's code runs until it calls its language model; what arrives there, and only that, is
kept, and the call is ours from then on: request by request without padding, in chunks of any size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparrow_kernels.models.bridge.names import without_cache
from sparrow_kernels.models.bridge.outer import check_last_embeddings
from sparrow_kernels.models.bridge.view import standing_in
from sparrow_kernels.models.families import Parts

_PASSED = ("input_ids", "inputs_embeds", "position_ids", "visual_pos_masks")
_OURS = ("attention_mask", "use_cache", "return_dict", "logits_to_keep", "mm_token_type_ids")
_VISUAL_MASK = "visual_pos_masks"
_TEXT = ("input_ids", "position_ids", "attention_mask", "inputs_embeds", "token_type_ids")
_ADAPTER = "docs/adding-a-model.md says what an adapter names"


class Chunk(NamedTuple):
    """A run of one request's rows, ready for the language model."""

    begin: int
    """Slot of the first row."""
    end: int
    inputs: dict[str, Any]
    """Keywords of the language model: embeddings `[1, n, H]`, positions `[axes, 1, n]`, and what
    else the family passes."""


@dataclass
class RequestPrompt:
    """One request's prompt, without its padding."""

    ids: Tensor
    """`[n]` int64."""
    visual: Tensor
    """`[n]` bool: slots that hold a clip's or an image's tokens."""
    embeddings: Tensor
    """`[1, n, H]`."""
    positions: Tensor
    """`[axes, 1, n]`, or `[1, n]` where a family has one axis."""
    per_visual: dict[str, list[Tensor]]
    """By keyword, for each layer that takes any, `[visual tokens, H]`."""
    has_visual_mask: bool

    @property
    def next_position(self) -> Tensor:
        """The position after the last column: `[axes, 1]` or `[1]`.

        Not `tokens + rope_deltas`: once a clip's temporal ids pass its text they differ.
        """
        return self.positions[..., -1] + 1

    def chunks(self, begin: int, size: int) -> Iterator[Chunk]:
        """Rows from `begin` on, at most `size` at a time."""
        length = len(self.ids)
        for first in range(begin, length, size):
            last = min(first + size, length)
            inputs: dict[str, Any] = {
                "inputs_embeds": self.embeddings[:, first:last],
                "position_ids": self.positions[..., first:last],
            }
            if self.has_visual_mask:
                inputs[_VISUAL_MASK] = self.visual[None, first:last]
            if self.per_visual:
                spans = ((0, first), (first, last))
                before, within = (int(self.visual[a:b].sum()) for a, b in spans)
                for name, layers in self.per_visual.items():
                    inputs[name] = [each[before : before + within] for each in layers]
            yield Chunk(first, last, inputs)


def take_prompts(
    parts: Parts, model_inputs: dict[str, Any], attention_mask: Tensor | None
) -> list[RequestPrompt]:
    """The prompts of a batch, one by one.

    Args:
        parts: a private view's.
        model_inputs: as `prepare_inputs_for_generation` made them.
        attention_mask: `[B, n]`, 0 at padding; None for none.

    Raises:
        ValueError: padding that is not on the left, or a request of padding alone.
        NotImplementedError: the language model is called with what cannot be split by token.
    """
    input_ids = model_inputs["input_ids"]
    taken = _at_the_door(parts, model_inputs)
    _refuse_unknown(parts, taken)
    embeddings = taken.get("inputs_embeds")
    if embeddings is None:
        embeddings = parts.embedding(input_ids)
    batch, length = input_ids.shape
    starts = _starts(attention_mask, batch, length)
    positions = _positions(parts, taken.get("position_ids"), model_inputs, starts, length)
    visual = parts.visual_mask(input_ids)
    per_visual = {name: taken[name] for name in parts.family.per_visual_token if taken.get(name)}
    if _VISUAL_MASK in taken and taken[_VISUAL_MASK] is not None:
        visual = taken[_VISUAL_MASK]
    check_last_embeddings(parts, input_ids, embeddings, visual)
    counts = visual.sum(dim=1).tolist()
    prompts, seen = [], 0
    for request, (start, count) in enumerate(zip(starts, counts, strict=True)):
        own = {
            name: [each[seen : seen + count] for each in layers]
            for name, layers in per_visual.items()
        }
        seen += count
        prompts.append(
            RequestPrompt(
                input_ids[request, start:],
                visual[request, start:],
                embeddings[request : request + 1, start:],
                positions[..., request : request + 1, start:],
                own,
                taken.get(_VISUAL_MASK) is not None,
            )
        )
    return prompts


class _Reached(Exception):
    """The language model was called."""


def _at_the_door(parts: Parts, model_inputs: dict[str, Any]) -> dict[str, Any]:
    """The keywords with which the base model calls its language model."""
    if parts.reads_text_only:
        lost = [name for name in _holding_rows(model_inputs) if name not in _TEXT]
        if lost:
            raise NotImplementedError(
                f"target must have its language model under a name that an adapter knows, got"
                f" {lost[0]} for {type(parts.base).__name__} ({_ADAPTER})"
            )
        return {name: model_inputs.get(name) for name in ("input_ids", "position_ids")}
    taken: dict[str, Any] = {}

    def stop(*_: Any, **keywords: Any) -> None:
        taken.update(keywords)
        raise _Reached

    inputs = {
        name: value
        for name, value in without_cache(model_inputs).items()
        if name not in ("logits_to_keep", "use_cache")
    }
    # On the private view: nobody else's calls come this way. What hooks the language model sees the
    # prompt when it is run.
    own = parts.base._modules
    name = next(name for name, each in own.items() if each is parts.language_model)
    own[name] = standing_in(parts.language_model, stop, hooked=False)
    try:
        parts.base(**inputs, use_cache=False)
    except _Reached:
        return taken
    finally:
        own[name] = parts.language_model
    raise RuntimeError(
        f"{type(parts.base).__name__} must call its language model by keyword, and did not call it"
    )


def _refuse_unknown(parts: Parts, taken: dict[str, Any]) -> None:
    known = (*_PASSED, *_OURS, *parts.family.per_visual_token)
    unknown = [name for name in _holding_rows(taken) if name not in known]
    if unknown:
        raise NotImplementedError(
            f"target must call its language model with what an adapter names, got {unknown[0]} from"
            f" {type(parts.base).__name__} ({_ADAPTER})"
        )
    mask = taken.get("attention_mask")
    masks = mask.values() if isinstance(mask, Mapping) else [mask]
    if any(isinstance(each, Tensor) and each.dim() > 2 for each in masks):
        raise NotImplementedError(
            f"target must let each token see all tokens to its left and no others, got a mask of"
            f" {type(parts.base).__name__}'s own, as families make whose image tokens see one"
            f" another ({_ADAPTER})"
        )


def _holding_rows(keywords: dict[str, Any]) -> list[str]:
    """Names of tensors, and of what holds them, but for a cache."""
    return [name for name, value in without_cache(keywords).items() if _holds_tensor(value)]


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (list, tuple)):
        return any(map(_holds_tensor, value))
    return isinstance(value, Tensor)


def _starts(attention_mask: Tensor | None, batch: int, length: int) -> list[int]:
    """The first slot of each request that is no padding."""
    if attention_mask is None:
        return [0] * batch
    real = attention_mask != 0
    counts = real.sum(dim=1)
    on_the_left = torch.arange(length, device=real.device) >= length - counts[:, None]
    if not bool((real == on_the_left).all()):
        raise ValueError(
            "attention_mask must have padding on the left only (load the processor with"
            ' padding_side="left")'
        )
    starts = [length - int(count) for count in counts.tolist()]
    if length in starts:
        raise ValueError(
            f"attention_mask must leave every request a token, got only padding in request"
            f" {starts.index(length)}"
        )
    return starts


def _positions(
    parts: Parts,
    at_the_door: Tensor | None,
    model_inputs: dict[str, Any],
    starts: list[int],
    length: int,
) -> Tensor:
    """`[axes, B, n]`, or `[B, n]`; counted from each request's first token where none are given."""
    positions = at_the_door if at_the_door is not None else model_inputs.get("position_ids")
    axes, batch = parts.family.position_axes, len(starts)
    if positions is None:
        device = model_inputs["input_ids"].device
        firsts = torch.tensor(starts, device=device)[:, None]
        positions = (torch.arange(length, device=device) - firsts).clamp_min(0)
    if positions.dim() != 2 and not axes:
        raise NotImplementedError(
            f"target must have one position a token, got {list(positions.shape)} from"
            f" {type(parts.base).__name__} ({_ADAPTER})"
        )
    if axes and positions.dim() == 2:
        positions = positions.expand(axes, *positions.shape)
    if axes:
        return positions[-axes:].expand(axes, batch, length)  # `generate` puts a text row first
    return positions.expand(batch, length)
