"""Tiny random targets with mixtures of experts: a dense family's, with its processor."""

from __future__ import annotations

from typing import Any

from tiny_parts import Tiny, text_settings

import transformers as hf  # isort: skip  (after tiny_parts: the shim must come first)

EXPERTS = {"head_dim": 16, "moe_intermediate_size": 32, "num_experts_per_tok": 2}


def _mixture(dense: Tiny, config: Any, model: Any, **text: Any) -> Tiny:
    """`dense` with another text model; its tower and its ids are the same."""
    kept = dense.target.config.to_dict()
    vision = {k: v for k, v in kept["vision_config"].items() if k not in ("model_type", "dtype")}
    rope = kept["text_config"]["rope_parameters"]
    return Tiny(
        model(
            config(
                text_config=text_settings(**EXPERTS, **text, rope_parameters=rope),
                vision_config=vision,
                **{name: value for name, value in kept.items() if name.endswith("_token_id")},
            )
        ),
        dense.processor,
    )


def qwen3_vl_moe(dense: Tiny) -> Tiny:
    every = {"num_experts": 4, "decoder_sparse_step": 1, "mlp_only_layers": []}
    return _mixture(dense, hf.Qwen3VLMoeConfig, hf.Qwen3VLMoeForConditionalGeneration, **every)


def glm4v_moe(dense: Tiny) -> Tiny:
    """Its first layer is dense, and one expert sees every token."""
    some = {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1}
    groups = {"n_group": 1, "topk_group": 1}
    return _mixture(dense, hf.Glm4vMoeConfig, hf.Glm4vMoeForConditionalGeneration, **some, **groups)
