"""Drafts after EAGLE-3: a layer that reads `[norm(emb); norm(g)]`, `g = fc` of several states.

EAGLE 3 and 3.1, SpecForge, AngelSlim and speculators. They differ in how they name the layer, how
they count the target's layers, and in a few norms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sparrow_kernels.models.drafts.derivation import Derivation
from sparrow_kernels.models.drafts.layer import ForeignLayer

# Where each producer writes the layers it reads, and what it adds to get transformers' numbers.
_ANGELSLIM_IDS = "aux_hidden_states_layer_ids"
_EAGLE_IDS = "eagle_aux_hidden_state_layer_ids"


def recognised(found: Derivation) -> str:
    """The format's name."""
    named = found.config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else ""
    if "speculators_model_type" in found.config:
        return "speculators"
    if architecture == "LlamaForCausalLMEagle3":
        return "specforge"
    if architecture == "Eagle3LlamaForCausalLM" or "modal_type" in found.config:
        return "angelslim"
    return "eagle3"


def derive(
    found: Derivation, layer: ForeignLayer, swapped: bool, layer_ids: Sequence[int] | None
) -> str:
    """Settings and weights of its own; returns the format's name.

    Args:
        swapped: in the file q, k and v read the state first.
        layer_ids: as the caller asked, indices in transformers' tuple of hidden states.
    """
    name, hidden, prefix = recognised(found), layer.hidden, layer.prefix
    found.put("paired", True, "keys: q_proj reads twice the hidden size")
    width = found.count("target_hidden_size") or found.facts.hidden
    if width != found.facts.hidden:
        found.refuse(f"must be made for this target: hidden size {width}, not {found.facts.hidden}")
    found.put("target_hidden_size", width, "target")
    states, left = divmod(found.columns("fc.weight"), width)
    if left or not states:
        found.refuse(
            f"fc must read states of the target's {width} channels, got"
            f" {found.columns('fc.weight')} columns"
        )
    _put_layer_ids(found, name, states, layer_ids)
    found.weights["fc.weight"] = found.take("fc.weight", hidden, states * width)
    found.put("fc_bias", found.has("fc.bias"), "keys: fc.bias")
    if found.has("fc.bias"):
        found.weights["fc.bias"] = found.take("fc.bias", hidden)
    found.require([f"{prefix}input_layernorm.weight", f"{prefix}hidden_norm.weight", "norm.weight"])
    layer.take_norm("embedding_norm", f"{prefix}input_layernorm.weight")
    layer.take_norm("attention_norm", f"{prefix}hidden_norm.weight")
    layer.take_norm("final_norm", "norm.weight")
    _take_state_norms(found, states, width)
    if swapped:
        first, second = found.weights["qkv.weight"].chunk(2, dim=1)
        found.weights["qkv.weight"] = torch.cat([second, first], dim=1)
    normed = bool(found.config.get("norm_before_residual", False))
    source = "config" if "norm_before_residual" in found.config else "default"
    found.put("norm_before_residual", normed, source)
    # SpecForge writes norm_output as well, and means that there is a norm before its head at all.
    says_so = bool(found.config.get("norm_output"))
    means_it = name == "speculators" or found.settings["state_norms"] > 1
    found.put("feeds_normed", says_so and means_it, "config" if says_so else "default")
    found.put("trained_to_see", "placeholders", f"format {name}")
    _put_sections(found, name)
    return name


def _take_state_norms(found: Derivation, states: int, width: int) -> None:
    each = [f"fc_norm.{number}.weight" for number in range(states)]
    if found.has("input_norm.weight"):
        norm = found.take("input_norm.weight", states * width)
        found.weights["state_norm"] = norm[None]
        found.put("state_norms", 1, "keys: input_norm")
    elif found.has(each[0]):
        found.weights["state_norm"] = torch.stack([found.take(name, width) for name in each])
        found.put("state_norms", states, "keys: fc_norm")
    else:
        for key in ("fc_norm", "norm_before_fc"):
            if found.config.get(key):
                found.refuse(f"must have the norm that config.json speaks of ({key}), got none")
        found.put("state_norms", 0, "keys: no fc_norm, no input_norm")


def _put_layer_ids(found: Derivation, name: str, states: int, asked: Sequence[int] | None) -> None:
    """Which hidden states it reads: files count them in two ways, under the same names."""
    layers = found.facts.layers
    usual = None if layers is None else [2, layers // 2, layers - 3]
    read, key = _read_ids(found)
    if asked is not None:
        ids, source = list(asked), "caller"
    elif read is None:
        if states != 3:
            found.refuse(
                f"must say which {states} states of the target it reads, got no layer ids",
                "layer_ids=... says it",
            )
        if usual is None:
            found.put("layer_ids", None, "default: 2, L // 2, L - 3 of the target; name it")
            return
        ids, source = usual, "default: 2, L // 2, L - 3"
    elif name == "speculators" or (name == "eagle3" and read == usual):
        ids, source = list(read), f"config: {key}, which counts layers' inputs"
    elif name in ("angelslim", "specforge") or read[0] == 1:
        ids, source = [each + 1 for each in read], f"config: {key}, which counts layers' outputs"
    else:
        shown, other = (", ".join(map(str, each)) for each in (read, [one + 1 for one in read]))
        found.refuse(
            f"must say how it counts layers, got {key} {shown} and nothing else",
            f"layer_ids=({shown}) or layer_ids=({other}); sparrow draft probe tries both",
        )
    if len(ids) > states and asked is None:
        ids = ids[:states]  # some write the top layer behind those that the draft reads
    if len(ids) != states or not all(0 <= each <= (layers or each) for each in ids):
        found.refuse(
            f"layer_ids must be {states} of 0 to {layers}, by the columns of fc and the target's"
            f" layers, got {', '.join(map(str, ids))}"
        )
    found.put("layer_ids", ids, source)


def _read_ids(found: Derivation) -> tuple[list[int] | None, str]:
    eagle = found.config.get("eagle_config")
    places = [
        (found.config, _ANGELSLIM_IDS),
        (eagle if isinstance(eagle, dict) else {}, _EAGLE_IDS),
        (found.config, _EAGLE_IDS),
    ]
    for place, key in places:
        ids = place.get(key)
        if ids is None:
            continue
        if not isinstance(ids, list) or not ids or not all(isinstance(one, int) for one in ids):
            found.refuse(f"{key} must be a list of layers, got {ids!r}")
        return ids, key
    return None, ""


def _put_sections(found: Derivation, name: str) -> None:
    """M-RoPE's sections, which only rows of a clip need."""
    for rope in (found.from_config("rope_parameters"), found.from_config("rope_scaling")):
        if isinstance(rope, dict) and rope.get("mrope_section"):
            sections = rope["mrope_section"]
            is_three = isinstance(sections, list) and [type(one) for one in sections] == [int] * 3
            if not is_three or 2 * sum(sections) != found.settings["head_dim"]:
                found.object_to(f"mrope_section must be three halves of a head, got {sections}")
                return
            # AngelSlim interleaves always.
            interleaved = name == "angelslim" or bool(rope.get("mrope_interleaved"))
            found.put("mrope_section", sections, "config")
            found.put("mrope_interleaved", interleaved, "config")
            return
