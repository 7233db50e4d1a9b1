"""What all formats share: a decoder layer in Llama's names, rotary embedding, vocabularies."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.models.drafts.derivation import Derivation, positive

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_DEFAULT_BASE = 1e4


class ForeignLayer:
    """The decoder layer of a draft: where its weights are, and its sizes by their shapes."""

    def __init__(self, found: Derivation) -> None:
        self._found = found
        is_mid = any(name.startswith("midlayer.") for name in found.tensors)
        self.prefix = "midlayer." if is_mid else "layers.0."
        self._check_one_layer()
        attention = [f"{self.prefix}self_attn.{each}.weight" for each in (*_PROJECTIONS, "o_proj")]
        mlp = [f"{self.prefix}mlp.{each}_proj.weight" for each in ("gate", "up", "down")]
        norm = f"{self.prefix}post_attention_layernorm.weight"
        found.require(["fc.weight", *attention, *mlp, norm])
        self.inputs, self._inner = found.columns(attention[0]), found.rows(attention[0])
        self.hidden = found.rows(attention[3])

    def _check_one_layer(self) -> None:
        found = self._found
        numbers = {
            int(match[1])
            for name in found.tensors
            if (match := re.match(r"layers\.(\d+)\.", name)) is not None
        }
        if len(numbers) > 1:
            found.refuse(
                f"must have one layer, got {len(numbers)}",
                "deep and block drafts, such as DFlash's, are not decoded",
            )
        said = found.from_config("num_hidden_layers")
        if said is not None and said != 1:
            found.notes.append(f"config.json says {said} layers, and there are weights of 1")

    def take(self) -> None:
        """Sizes and weights of attention, MLP and the norm between them."""
        found, prefix, hidden = self._found, self.prefix, self.hidden
        found.put("hidden_size", hidden, f"keys: {prefix}self_attn.o_proj.weight")
        head_dim, heads = self._heads()
        key_rows = found.rows(f"{prefix}self_attn.k_proj.weight")
        if key_rows % head_dim or heads % max(1, key_rows // head_dim):
            found.refuse(
                f"k_proj must have rows for heads of {head_dim} that divide {heads}, got {key_rows}"
            )
        found.put("num_key_value_heads", key_rows // head_dim, "keys: k_proj")
        rows = (self._inner, key_rows, key_rows)
        names = [f"{prefix}self_attn.{each}" for each in _PROJECTIONS]
        found.weights["qkv.weight"] = torch.cat(
            [
                found.take(f"{name}.weight", count, self.inputs)
                for name, count in zip(names, rows, strict=True)
            ]
        )
        biased = any(found.has(f"{name}.bias") for name in names)
        if not biased and (said := found.from_config("qkv_bias", "attention_bias")):
            found.refuse(
                f"must have the biases of q, k and v that config.json speaks of ({said}), got none"
            )
        if biased:
            found.weights["qkv.bias"] = torch.cat(
                [found.take(f"{name}.bias", count) for name, count in zip(names, rows, strict=True)]
            )
        found.put("attention_bias", biased, "keys: q_proj.bias")
        self._take_query_key_norms(head_dim)
        found.weights["out.weight"] = found.take(
            f"{prefix}self_attn.o_proj.weight", hidden, self._inner
        )
        self._take_mlp()
        activation = found.from_config("hidden_act")
        if activation not in (None, "silu", "swish"):
            found.object_to(f"must have silu in its MLP, got {activation}")
        eps = positive(found.where, "rms_norm_eps", found.from_config("rms_norm_eps"))
        found.put("rms_norm_eps", eps or 1e-6, "config" if eps else "default")

    def _heads(self) -> tuple[int, int]:
        """Head dim and query heads: shapes alone do not tell one from the other."""
        found = self._found
        head_dim, heads = found.count("head_dim"), found.count("num_attention_heads")
        norm = f"{self.prefix}self_attn.q_norm.weight"
        source = "config"
        if found.has(norm):
            head_dim, source = found.rows(norm), "keys: q_norm"
        elif head_dim is None and heads:
            head_dim, source = self._inner // heads, "keys: q_proj, by the heads of config"
        if not head_dim:
            found.refuse("config.json must have num_attention_heads or head_dim, got neither")
        if self._inner % head_dim or (heads and heads * head_dim != self._inner):
            found.refuse(
                f"q_proj must have a row for each channel of its heads, {heads or 'some'} of"
                f" {head_dim} by {source}, got {self._inner}"
            )
        found.put("head_dim", head_dim, source)
        found.put("num_attention_heads", self._inner // head_dim, "keys: q_proj")
        return head_dim, self._inner // head_dim

    def _take_query_key_norms(self, head_dim: int) -> None:
        found = self._found
        names = [f"{self.prefix}self_attn.{each}_norm.weight" for each in "qk"]
        normed = any(name in found.tensors for name in names)
        if normed:
            found.weights["query_norm"] = found.take(names[0], head_dim)
            found.weights["key_norm"] = found.take(names[1], head_dim)
        found.put("query_key_norm", normed, "keys: q_norm")

    def _take_mlp(self) -> None:
        found, prefix, hidden = self._found, self.prefix, self.hidden
        inner = found.rows(f"{prefix}mlp.gate_proj.weight")
        found.put("intermediate_size", inner, "keys: gate_proj")
        gate, up = (
            found.take(f"{prefix}mlp.{each}_proj.weight", inner, hidden) for each in ("gate", "up")
        )
        found.weights["gate_up.weight"] = torch.cat([gate, up])
        found.weights["down.weight"] = found.take(f"{prefix}mlp.down_proj.weight", hidden, inner)
        found.weights["mlp_norm"] = found.take(f"{prefix}post_attention_layernorm.weight", hidden)

    def take_norm(self, setting: str, name: str) -> bool:
        """A norm that some formats have; whether it is there."""
        found = self._found
        there = found.has(name)
        found.put(setting, there, f"keys: {name}")
        if there:
            found.weights[setting] = found.take(name, self.hidden)
        return there


def take_rotary(found: Derivation, asked: float | None) -> None:
    """The base of the rotary embedding, and a refusal of what is no plain one."""
    ropes = [found.from_config("rope_parameters"), found.from_config("rope_scaling")]
    ropes = [rope for rope in ropes if isinstance(rope, dict)]
    for rope in ropes:
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ("default", "mrope"):
            found.object_to(f"must have a plain rotary embedding, got one of type {kind!r}")
    partial = [*ropes, found.layer_config]
    if any(each.get("partial_rotary_factor") not in (None, 1, 1.0) for each in partial):
        found.object_to("must rotate whole heads, got a partial_rotary_factor")
    nested = (rope.get("rope_theta") for rope in ropes)
    read = found.from_config("rope_theta") or next((each for each in nested if each), None)
    base = positive(found.where, "rope_theta", read if asked is None else asked)
    source = "default" if base is None else "config" if asked is None else "caller"
    found.put("rope_theta", base or _DEFAULT_BASE, source)
    kinds = found.from_config("layer_types")
    if (isinstance(kinds, list) and "sliding_attention" in kinds) or found.from_config(
        "use_sliding_window"
    ):
        found.object_to("must attend to all its rows, got layers with a sliding window")


def take_embedding(found: Derivation, hidden: int) -> None:
    """The embedding: the target's, unless the draft holds another one."""
    name, table = "embed_tokens.weight", found.facts.embedding
    vocabulary = found.facts.vocabulary
    own = False
    if found.has(name):
        weight = found.take(name, vocabulary, hidden)
        own = found.facts.hidden != hidden if table is None else not _same(weight, table)
        if own:
            found.weights["embedding.weight"] = weight
    source = f"keys: {name}"
    if found.has(name) and not own:
        source += ", the same as the target's" if table is not None else ", if not the target's"
    found.put("own_embedding", own, source)
    if not own and found.facts.hidden != hidden:
        found.refuse(
            f"must have an embedding of its own {hidden} channels, got none, and the target's has"
            f" {found.facts.hidden}"
        )


def take_head(found: Derivation, hidden: int) -> None:
    """The LM head and what its rows stand for: the target's, unless the draft holds one."""
    name, facts = "lm_head.weight", found.facts
    size = found.rows(name) if found.has(name) else None
    if size is None:
        if found.has("d2t"):
            found.require([name])
        found.put("draft_vocab_size", None, "keys: no lm_head, so the target's")
        return
    weight = found.take(name, size, hidden)
    if size != facts.vocabulary:
        found.require(["d2t"])
    if found.has("d2t"):
        ids = _drafted_ids(found, size)
    else:
        ids = torch.arange(size)
        if facts.lm_head is not None and _same(weight, facts.lm_head):
            found.put("draft_vocab_size", None, f"keys: {name}, the same as the target's")
            return
    found.put("draft_vocab_size", size, f"keys: {name}")
    found.weights["head.weight"], found.weights["draft_ids"] = weight, ids


def _drafted_ids(found: Derivation, size: int) -> Tensor:
    """The target's id of each row: `d2t` holds how much larger it is than the row's number."""
    ids = torch.arange(size) + found.take("d2t", size, whole=True).long()
    outside = ((ids < 0) | (ids >= found.facts.vocabulary)).nonzero()
    if len(outside):
        row = int(outside[0])
        found.refuse(
            f"d2t must lead to ids of 0 to {found.facts.vocabulary - 1}, got {int(ids[row])} for"
            f" row {row}"
        )
    values, counts = ids.unique(return_counts=True)
    if bool((counts > 1).any()):
        found.refuse(
            f"d2t must lead to each id once, got {int(values[counts > 1][0])} more than once"
        )
    return ids


def check_vocabulary(found: Derivation) -> None:
    """Refuse a draft of another vocabulary or family."""
    facts = found.facts
    said: dict[str, Any] = {"vocab_size": found.from_config("vocab_size")}
    if found.has("t2d"):
        said["t2d"] = found.rows("t2d")
    for name, size in said.items():
        if size is not None and size != facts.vocabulary:
            found.object_to(f"must be made for this target: {name} {size}, not {facts.vocabulary}")
    family = found.config.get("target_model_type")
    if family is not None and family != facts.model_type:
        found.object_to(f"must be made for this target: of {family}, not {facts.model_type}")


def _same(weight: Tensor, other: Tensor) -> bool:
    """Whether both hold the same numbers, in the lower of their precisions."""
    if weight.shape != other.shape:
        return False
    other = other.detach().to(weight.device)
    lower = min(weight.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
    return torch.equal(weight.to(lower), other.to(lower))
