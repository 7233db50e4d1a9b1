"""Drafts after EAGLE-2: one layer over `fc([emb; h])`, `h` the target's top state.

EAGLE-2 itself, MSD, ViSpec, HiViS and Sparrow. Their weights have the same names, but for what each
has of its own; which of the formats it is can be told by those.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.models.drafts.derivation import Derivation
from sparrow_kernels.models.drafts.layer import ForeignLayer

_SEEN = {
    "sparrow": "middle",
    "eagle2": "states",
    "msd": "embeddings",
    "vispec": "adaptor",
    "hivis": "nothing",
}


def recognised(found: Derivation) -> str:
    """The format's name."""
    if found.has("residual"):
        return "hivis"
    if any(name.startswith("imadpt.") for name in found.tensors):
        return "vispec"
    if found.has("input_layernorm.weight"):
        return "sparrow"
    is_msd = found.has("layers.0.input_layernorm.weight")
    return "msd" if is_msd or found.config.get("model_type") in ("llava", "qwen2_vl") else "eagle2"


def derive(found: Derivation, layer: ForeignLayer, swapped: bool) -> str:
    """Settings and weights of its own; returns the format's name.

    Args:
        swapped: the file's `fc` reads the state first.
    """
    name, hidden = recognised(found), layer.hidden
    if hidden != found.facts.hidden:
        found.refuse(
            f"must be made for this target: hidden size {hidden}, not {found.facts.hidden}"
        )
    layer.take_norm("embedding_norm", "input_layernorm.weight")
    layer.take_norm("attention_norm", f"{layer.prefix}input_layernorm.weight")
    layer.take_norm("final_norm", "norm.weight")
    fc, bias = _fc(found, hidden, 3 if name == "hivis" else 2)
    embedding, state = fc[:, :hidden], fc[:, hidden : 2 * hidden]
    if swapped:
        embedding, state = state, embedding
    if name == "hivis":
        residual = found.take("residual", found.rows("residual"), hidden)
        found.weights["step_shift"] = residual.float() @ fc[:, 2 * hidden :].T
        found.put("step_shifts", len(residual), "keys: residual")
    if name == "vispec":
        image = found.take("img_fc.weight", hidden, 2 * hidden).float()
        shift = found.take("img_fc.bias", hidden).float()
        of_state, of_clip = image[:, :hidden], image[:, hidden:]
        _take_adaptor(found, hidden, state @ of_clip)
        bias = state @ shift + (0 if bias is None else bias)
        state = state @ of_state
    found.weights["fc.weight"] = torch.cat([embedding, state], dim=1)
    if bias is not None:
        found.weights["fc.bias"] = bias
    found.put("fc_bias", bias is not None, "keys: fc.bias")
    found.put("trained_to_see", _SEEN[name], f"format {name}")
    found.put("slice_clip", name == "sparrow", f"format {name}")
    return name


def _fc(found: Derivation, hidden: int, parts: int) -> tuple[Tensor, Tensor | None]:
    fc = found.take("fc.weight", hidden, parts * hidden).float()
    if found.config.get("bias", True):
        found.require(["fc.bias"])
    return fc, found.take("fc.bias", hidden).float() if found.has("fc.bias") else None


def _take_adaptor(found: Derivation, hidden: int, to_shift: Tensor) -> None:
    names = [f"imadpt.{each}" for each in ("q", "k_proj.weight", "v_proj.weight", "o_proj.weight")]
    found.require([*names, "imadpt.k_proj.bias", "imadpt.v_proj.bias"])
    shape = found.tensors["imadpt.q"].shape
    if len(shape) != 3 or shape[1] * shape[2] != hidden:
        found.refuse(f"imadpt.q must be [queries, heads, H / heads], got {list(shape)}")
    found.put("clip_queries", shape[0], "keys: imadpt.q")
    found.put("clip_heads", shape[1], "keys: imadpt.q")
    found.weights["adaptor.queries"] = found.take("imadpt.q", *shape)
    for ours, theirs in (("key", "k_proj"), ("value", "v_proj"), ("out", "o_proj")):
        weight = found.take(f"imadpt.{theirs}.weight", hidden, hidden)
        found.weights[f"adaptor.{ours}.weight"] = weight
        bias = f"imadpt.{theirs}.bias"
        is_there = found.has(bias)
        found.weights[f"adaptor.{ours}.bias"] = (
            found.take(bias, hidden) if is_there else weight.new_zeros(hidden)
        )
    found.weights["adaptor.to_shift.weight"] = to_shift
