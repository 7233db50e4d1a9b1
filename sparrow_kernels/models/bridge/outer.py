"""What a target's own forward adds around its language model: nothing, or it is refused.

A step calls the language model and the LM head, and nothing of what lies around them. A second
layer in the head, a subclass that scales its logits, a hook on the whole model would be left out,
and another text come out. So the whole model is asked once a call, with the states that a prompt
has left: these have to arrive at its LM head, and what that made of them has to come out. And what
arrives at the language model for a prompt's last token has to be its embedding.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPast

from sparrow_kernels.drafting.requirements import base_name_of, refuse
from sparrow_kernels.models.bridge.view import is_private

_MUST = "take its logits from its LM head unaltered, and its tokens to its language model"


class _Left(BaseModelOutputWithPast):
    """What a base model has made, as far as a model around it may ask: states, else None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


def check_logits(parts: Any, tokens: Tensor, states: Tensor, logits: Tensor) -> None:
    """Raise `ValueError` unless the whole model makes the LM head's logits of these states.

    Neither the language model nor the head is called again: who watches them sees no other calls.

    Args:
        parts: a private view's.
        tokens: `[1, 1]` int64, the prompt's last.
        states: `[1, 1, H]`, the language model's there.
        logits: `[1, 1, V]`, the LM head's.
    """
    model = parts.model
    assert is_private(model), "a model that others see must not be changed"
    asked: list[Any] = []

    def base(*arguments: Any, **keywords: Any) -> _Left:
        asked.append(keywords.get("input_ids", arguments[0] if arguments else None))
        return _Left(last_hidden_state=states)

    def head(hidden: Tensor) -> Tensor:
        if not _same(hidden, states):
            refuse(model, _MUST, "other states at its LM head")
        return logits

    own = model._modules
    before = dict(own)
    # Where the base model is the language model itself, a step runs what hooks it.
    stand_ins = {base_name_of(model): (base, not parts.reads_text_only)}
    stand_ins |= {name: (head, False) for name, each in own.items() if each is parts.lm_head}
    try:
        for name, (forward, hooked) in stand_ins.items():
            own[name] = _standing_in(own[name], forward, hooked)
        made = model(input_ids=tokens, use_cache=False, return_dict=True).logits
    finally:
        own.update(before)
    if not asked:
        refuse(model, _MUST, f"a forward that does not call its `{base_name_of(model)}`")
    if isinstance(asked[0], Tensor) and not torch.equal(asked[0], tokens):
        refuse(model, _MUST, "other tokens at its base model")
    if not _same(made, logits):
        sizes = [list(each.shape) for each in (made, logits)]
        how = "changes them" if sizes[0] == sizes[1] else f"makes {sizes[0]} of {sizes[1]}"
        refuse(model, _MUST, f"a forward or a hook that {how}")


def check_last_embeddings(
    parts: Any, input_ids: Tensor, embeddings: Tensor, visual: Tensor
) -> None:
    """Raise `ValueError` unless text arrives at the language model as the embedding makes it.

    Args:
        input_ids: `[B, n]` int64.
        embeddings: `[B, n, H]`, as they arrived.
        visual: `[B, n]` bool, slots that hold no text.
    """
    text = ~visual[:, -1]
    if not _same(parts.embedding(input_ids[text, -1]), embeddings[text, -1]):
        refuse(parts.model, "hand the embeddings of text on as they are", "others")


def _standing_in(module: Any, forward: Callable[..., Any], hooked: bool) -> Any:
    """`module` as others see it, with another forward; with its hooks or without."""
    view = module.__class__.__new__(module.__class__)
    view.__dict__.update(module.__dict__, forward=forward, _compiled_call_impl=None)
    if not hooked:
        view.__dict__.update(_forward_hooks=OrderedDict(), _forward_pre_hooks=OrderedDict())
    return view


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether they are equal bit for bit, NaN too, in whatever precision."""
    same_size = one.numel() == other.numel()
    return same_size and torch.allclose(
        one.float().flatten(), other.float().flatten(), rtol=0, atol=0, equal_nan=True
    )
