"""Writes a trained draft of ours as each producer would have saved it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from draft_files import SPECULATORS, DraftFiles, Sizes, draft_files
from torch import Tensor

from sparrow_kernels.drafting import SparrowDraft

# What a draft must be, for a format to be able to say it.
_EAGLE2 = {"embedding_norm": False, "attention_norm": False}
EAGLE3 = {
    "layer_ids": (2, 4, 5),
    "paired": True,
    "fc_bias": False,
    "attention_bias": False,
    "final_norm": True,
    "draft_vocab_size": 128,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "sparrow": {**_EAGLE2, "embedding_norm": True, "slice_clip": True},
    "eagle2": {**_EAGLE2, "attention_bias": False},
    "msd_llava": {**_EAGLE2, "attention_bias": False},
    "msd_qwen": {**_EAGLE2, "attention_norm": True},
    "vispec": _EAGLE2,
    "hivis": _EAGLE2,
    "specforge": EAGLE3,
    "angelslim": EAGLE3,
    "eagle3": EAGLE3,
    "speculators": {**EAGLE3, "norm_before_residual": True, "query_key_norm": True},
    "speculators_norm_before_fc": {**EAGLE3, "state_norms": 1},
    "eagle3_1": {**EAGLE3, "state_norms": 3, "feeds_normed": True},
}


def as_format(draft: SparrowDraft, name: str, embedding: Tensor) -> DraftFiles:
    """`draft`, which must have the settings of `name`, in that format's keys and configuration."""
    config = draft.config
    sizes = Sizes(
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocab=config.vocab_size,
        draft_vocab=config.draft_vocab_size or 2,
        target_layers=config.target_layers,
        rope_theta=config.rope_theta,
    )
    blank = draft_files(name, sizes, embedding=embedding)
    layer = blank.config.get("transformer_layer_config", blank.config)
    layer["rms_norm_eps"] = config.rms_norm_eps
    tensors = _weights(draft, name, sizes, blank.tensors)
    assert tensors.keys() == blank.tensors.keys(), "a format has the keys it has"
    return replace(blank, tensors=tensors)


def _weights(
    draft: SparrowDraft, name: str, sizes: Sizes, blank: dict[str, Tensor]
) -> dict[str, Tensor]:
    ours = {key: value.detach() for key, value in draft.network.state_dict().items()}
    prefix = "layers.0" if name in SPECULATORS or "midlayer.mlp.up_proj.weight" not in blank else ""
    prefix = prefix or "midlayer"
    rows = [count * sizes.head_dim for count in (sizes.heads, sizes.kv_heads, sizes.kv_heads)]
    found = {}
    for kind in ("weight", "bias"):
        if f"qkv.{kind}" in ours:
            parts = ours[f"qkv.{kind}"].split(rows)
            for letter, part in zip("qkv", parts, strict=True):
                found[f"{prefix}.self_attn.{letter}_proj.{kind}"] = part
        if f"fc.{kind}" in ours:
            found[f"fc.{kind}"] = ours[f"fc.{kind}"]
    found[f"{prefix}.self_attn.o_proj.weight"] = ours["out.weight"]
    found[f"{prefix}.post_attention_layernorm.weight"] = ours["mlp_norm"]
    gate, up = ours["gate_up.weight"].chunk(2)
    found |= {f"{prefix}.mlp.gate_proj.weight": gate, f"{prefix}.mlp.up_proj.weight": up}
    found[f"{prefix}.mlp.down_proj.weight"] = ours["down.weight"]
    paired = draft.config.paired
    below = f"{prefix}." if paired else ""
    names = {
        "embedding_norm": f"{below}input_layernorm.weight",
        "attention_norm": f"{prefix}.{'hidden_norm' if paired else 'input_layernorm'}.weight",
        "final_norm": "norm.weight",
        "query_norm": f"{prefix}.self_attn.q_norm.weight",
        "key_norm": f"{prefix}.self_attn.k_norm.weight",
        "head.weight": "lm_head.weight",
    }
    found |= {theirs: ours[each] for each, theirs in names.items() if each in ours}
    if "state_norm" in ours:
        norms = ours["state_norm"]
        if len(norms) == 1:
            found["input_norm.weight"] = norms[0]
        else:
            found |= {f"fc_norm.{number}.weight": norm for number, norm in enumerate(norms)}
    if "draft_ids" in ours:
        ids = ours["draft_ids"]
        found["d2t"] = ids - torch.arange(len(ids))
        found["t2d"] = torch.zeros(sizes.vocab, dtype=torch.bool).index_fill(0, ids, True)
    if name == "hivis":  # no residual, and a part of fc that would read it
        found["fc.weight"] = torch.cat([found["fc.weight"], torch.eye(sizes.hidden)], dim=1)
        found["residual"] = torch.zeros_like(blank["residual"])
    if name == "vispec":  # an adaptor that nobody reads without a clip, and a part of it that is
        identity = torch.eye(sizes.hidden)
        found["img_fc.weight"] = torch.cat([identity, torch.randn_like(identity)], dim=1)
        found["img_fc.bias"] = torch.zeros(sizes.hidden)
        found |= {key: value for key, value in blank.items() if key.startswith("imadpt.")}
    if "embed_tokens.weight" in blank:
        found["embed_tokens.weight"] = blank["embed_tokens.weight"]
    return found
