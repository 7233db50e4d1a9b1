"""What a target's own forward adds around its language model: nothing, or it is refused.

A step embeds its tokens, calls the language model and the LM head, and leaves out what lies around
them. A second layer in the head, a subclass that scales logits or embeddings, a hook on the whole
model, the autocast in which accelerate wraps a forward would be left out, and another text come
out. So the whole model is asked once a call, for a
prompt's last token, as a decoding step of `generate` would ask it, with the language model's states
already there: token and position have to arrive as they were, and the LM head's logits to come out.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPast

from sparrow_kernels.drafting.requirements import base_name_of, refuse
from sparrow_kernels.models.bridge.names import installed, takes
from sparrow_kernels.models.bridge.view import is_private, standing_in

_MUST = "take its logits from its LM head unaltered, and its tokens to its language model"


_SAME_AUTOCAST = (
    "such as accelerate's mixed_precision: generate within the same torch.autocast, which"
    " accelerator.autocast() is"
)


class _Left(BaseModelOutputWithPast):
    """What a base model has made, as far as a model around it may ask: else None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


def check_logits(
    parts: Any, tokens: Tensor, positions: Tensor, states: Tensor, logits: Tensor, cache: Any
) -> None:
    """Raise `ValueError` unless the whole model makes the LM head's logits of these states.

    The language model is not called again, nor is the head where it is the model's own child and
    gets these states: who watches them sees no other calls.

    Args:
        parts: a private view's.
        tokens: `[1, 1]` int64, the prompt's last.
        positions: `[axes, 1, 1]` or `[1, 1]`, its.
        states: `[1, 1, H]`, the language model's there.
        logits: `[1, 1, V]`, the LM head's.
        cache: of the prompt; nothing is written to it.

    Raises:
        RuntimeError: the whole model does not run.
    """
    model, device = parts.model, states.device.type
    assert is_private(model), "a model that others see must not be changed"
    arrived: list[dict[str, Any]] = []
    precisions = [_autocast(device)]
    held = [each.name for each in fields(_Left) if each.name in ("cache", "past_key_values")]
    # Copies: what is changed in place has to differ from what it was.
    left = _Left(last_hidden_state=states.clone(), **dict.fromkeys(held, cache))

    def base(*arguments: Any, **keywords: Any) -> _Left:
        precisions.append(_autocast(device))
        arrived.append({**keywords, **({"input_ids": arguments[0]} if arguments else {})})
        return left

    def head(hidden: Tensor) -> Tensor:
        return logits.clone() if _same(hidden, states) else parts.lm_head(hidden)

    own = model._modules
    before = dict(own)
    # Where the base model is the language model itself, a step runs what hooks it.
    stand_ins = {base_name_of(model): (base, not parts.reads_text_only)}
    stand_ins |= {name: (head, False) for name, each in own.items() if each is parts.lm_head}
    asked = {"input_ids": tokens.clone(), "position_ids": positions.clone()}
    asked |= {parts.cache_keyword: cache}
    asked["attention_mask"] = tokens.new_ones((1, cache.get_seq_length() + 1))
    asked = {name: value for name, value in asked.items() if takes(model, name)}
    try:
        for name, (forward, hooked) in stand_ins.items():
            own[name] = standing_in(own[name], forward, hooked=hooked)
        made = model(**asked, use_cache=True, return_dict=True).logits
    except Exception as error:
        raise RuntimeError(
            f"target must run on one token behind its prompt, as a step of generate runs it, got"
            f" {type(error).__name__} from {type(model).__name__}: {error} ({installed()})"
        ) from error
    finally:
        own.update(before)
    if not arrived:
        refuse(model, _MUST, f"a forward that does not call its `{base_name_of(model)}`")
    if precisions[0] != precisions[1]:
        got = f"{precisions[1]} of its own forward in a call of {precisions[0]}"
        refuse(model, "run its layers in the precision of the call", got, _SAME_AUTOCAST)
    _check_arrived(parts, arrived[0], tokens, positions)
    if not _same(made, logits):
        sizes = [list(each.shape) for each in (made, logits)]
        how = "changes them" if sizes[0] == sizes[1] else f"makes {sizes[0]} of {sizes[1]}"
        refuse(model, _MUST, f"a forward or a hook that {how}")


def _autocast(device: str) -> str:
    """The autocast in force, in words."""
    if not torch.is_autocast_enabled(device):
        return "no autocast"
    return f"autocast to {str(torch.get_autocast_dtype(device)).removeprefix('torch.')}"


def _check_arrived(parts: Any, arrived: dict[str, Any], tokens: Tensor, positions: Tensor) -> None:
    """Refuse another token at the base model, in whatever form, and another position."""
    found, embeddings = arrived.get("input_ids"), arrived.get("inputs_embeds")
    if isinstance(found, Tensor) and not torch.equal(found, tokens):
        refuse(parts.model, _MUST, "other tokens at its base model")
    if embeddings is not None and not _same(embeddings, parts.embedding(tokens)):
        refuse(parts.model, _MUST, "other embeddings at its base model")
    place = arrived.get("position_ids")
    if isinstance(place, Tensor) and not _same(place, positions):
        refuse(parts.model, _MUST, "other positions at its base model")


def check_last_embeddings(
    parts: Any, input_ids: Tensor, embeddings: Tensor, visual: Tensor
) -> None:
    """Raise `ValueError` unless text arrives at the language model as the embedding makes it.

    The embedding is asked for each prompt's last token.

    Args:
        input_ids: `[B, n]` int64.
        embeddings: `[B, n, H]`, as they arrived.
        visual: `[B, n]` bool, slots that hold no text.
    """
    text = ~visual[:, -1]
    if not _same(parts.embedding(input_ids[text, -1]), embeddings[text, -1]):
        refuse(parts.model, "hand the embeddings of text on as they are", "others")


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether they are equal bit for bit, NaN too, in whatever precision."""
    same_size = one.numel() == other.numel()
    return same_size and torch.allclose(
        one.float().flatten(), other.float().flatten(), rtol=0, atol=0, equal_nan=True
    )
