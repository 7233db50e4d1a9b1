"""Tiny checkpoints with random weights, in the keys and the config.json of each draft's producer.

Two families. After EAGLE-2 (EAGLE-2, MSD, ViSpec, HiViS, Sparrow): one layer of width H over
`fc([embedding ; state])`, the target's vocabulary and LM head. After EAGLE-3 (SpecForge, AngelSlim,
speculators, EAGLE-3): a layer over `[embedding ; fc(three states)]` with its own final norm and an
LM head over a reduced vocabulary.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

EAGLE2_FAMILY = ("sparrow", "eagle2", "msd_qwen", "msd_llava", "vispec", "hivis")
EAGLE3_FAMILY = (
    "specforge",
    "angelslim",
    "speculators",
    "speculators_norm_before_fc",
    "eagle3",
    "eagle3_1",
)
FORMATS = EAGLE2_FAMILY + EAGLE3_FAMILY

# speculators' layout; everyone else after EAGLE-3 calls the layer `midlayer`.
SPECULATORS = ("speculators", "speculators_norm_before_fc", "eagle3_1")
QKV_BIAS = ("sparrow", "msd_qwen", "vispec", "hivis")


@dataclass(frozen=True)
class Sizes:
    """`head_dim` is for the producers whose config.json carries it; the others' is hidden // heads.

    `target_layers` counts the target's decoder layers, `residuals` the rows of HiViS' step
    residual, `num_queries` the learned queries of ViSpec's adaptor.
    """

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    draft_vocab: int
    target_layers: int
    rope_theta: float
    num_queries: int = 2
    residuals: int = 4


# 4 heads of 16 over a width of 48.
WIDE_HEADS = Sizes(
    hidden=48,
    intermediate=80,
    heads=4,
    kv_heads=4,
    head_dim=16,
    vocab=97,
    draft_vocab=41,
    target_layers=8,
    rope_theta=1e6,
)
GROUPED_HEADS = Sizes(
    hidden=64,
    intermediate=96,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocab=97,
    draft_vocab=53,
    target_layers=10,
    rope_theta=5e5,
)


@dataclass(frozen=True)
class DraftFiles:
    format: str
    config: dict
    tensors: dict[str, Tensor]


def carries_head_dim(name: str) -> bool:
    return name in EAGLE3_FAMILY and name != "eagle3"


def head_dim(name: str, sizes: Sizes) -> int:
    return sizes.head_dim if carries_head_dim(name) else sizes.hidden // sizes.heads


class _Weights:
    """Random tensors by key; float32, of a scale that keeps what passes through near 1."""

    def __init__(self, seed: int) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.random = torch.Generator().manual_seed(seed)

    def normal(self, key: str, shape: tuple[int, ...], scale: float = 1.0) -> None:
        self.tensors[key] = scale * torch.randn(shape, generator=self.random)

    def norm(self, key: str, width: int) -> None:
        self.tensors[key] = 1 + 0.2 * torch.randn(width, generator=self.random)

    def linear(self, name: str, rows: int, columns: int, *, bias: bool = False) -> None:
        self.normal(f"{name}.weight", (rows, columns), 1 / math.sqrt(columns))
        if bias:
            self.normal(f"{name}.bias", (rows,), 0.2)

    def layer(self, prefix: str, inputs: int, dim: int, sizes: Sizes, *, qkv_bias: bool) -> None:
        hidden = sizes.hidden
        for name, heads in (("q", sizes.heads), ("k", sizes.kv_heads), ("v", sizes.kv_heads)):
            self.linear(f"{prefix}.self_attn.{name}_proj", heads * dim, inputs, bias=qkv_bias)
        self.linear(f"{prefix}.self_attn.o_proj", hidden, sizes.heads * dim)
        self.norm(f"{prefix}.post_attention_layernorm.weight", hidden)
        self.linear(f"{prefix}.mlp.gate_proj", sizes.intermediate, hidden)
        self.linear(f"{prefix}.mlp.up_proj", sizes.intermediate, hidden)
        self.linear(f"{prefix}.mlp.down_proj", hidden, sizes.intermediate)


def draft_files(
    name: str, sizes: Sizes, seed: int = 0, embedding: Tensor | None = None
) -> DraftFiles:
    """A draft as `name` saves it.

    `embedding`, the target's table [vocab, hidden], goes in where that producer saves a copy of it.
    """
    if name not in FORMATS:
        raise ValueError(f"draft_files: {name!r} is none of {', '.join(FORMATS)}")
    weights = _Weights(seed)
    if name in EAGLE2_FAMILY:
        _eagle2_weights(weights, name, sizes)
        config = _eagle2_config(name, sizes)
    else:
        _eagle3_weights(weights, name, sizes)
        config = _eagle3_config(name, sizes)
    saves_embedding = name in EAGLE2_FAMILY or name in SPECULATORS
    if embedding is not None and saves_embedding:
        weights.tensors["embed_tokens.weight"] = embedding.detach().float().clone()
    return DraftFiles(name, config, weights.tensors)


def write(files: DraftFiles, folder: Path) -> Path:
    """config.json and model.safetensors in `folder`, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(files.config, indent=2))
    save_file(
        {key: tensor.contiguous() for key, tensor in files.tensors.items()},
        folder / "model.safetensors",
    )
    return folder


def _eagle2_weights(weights: _Weights, name: str, sizes: Sizes) -> None:
    hidden, dim = sizes.hidden, head_dim(name, sizes)
    weights.linear("fc", hidden, (3 if name == "hivis" else 2) * hidden, bias=True)
    weights.layer("layers.0", hidden, dim, sizes, qkv_bias=name in QKV_BIAS)
    if name == "msd_qwen":
        weights.norm("layers.0.input_layernorm.weight", hidden)
    if name == "sparrow":
        weights.norm("input_layernorm.weight", hidden)
    if name == "hivis":
        weights.normal("residual", (sizes.residuals, hidden))
    if name == "vispec":
        weights.normal("imadpt.q", (sizes.num_queries, sizes.heads, dim))
        weights.linear("imadpt.k_proj", hidden, hidden, bias=True)
        weights.linear("imadpt.v_proj", hidden, hidden, bias=True)
        weights.linear("imadpt.o_proj", hidden, hidden)
        weights.linear("img_fc", hidden, 2 * hidden, bias=True)


def _eagle3_weights(weights: _Weights, name: str, sizes: Sizes) -> None:
    hidden = sizes.hidden
    prefix = "layers.0" if name in SPECULATORS else "midlayer"
    weights.linear("fc", hidden, 3 * hidden)
    weights.layer(prefix, 2 * hidden, head_dim(name, sizes), sizes, qkv_bias=False)
    weights.norm(f"{prefix}.input_layernorm.weight", hidden)
    weights.norm(f"{prefix}.hidden_norm.weight", hidden)
    weights.norm("norm.weight", hidden)
    weights.linear("lm_head", sizes.draft_vocab, hidden)
    if name == "speculators":
        weights.norm(f"{prefix}.self_attn.q_norm.weight", sizes.head_dim)
        weights.norm(f"{prefix}.self_attn.k_norm.weight", sizes.head_dim)
    if name == "speculators_norm_before_fc":
        weights.norm("input_norm.weight", 3 * hidden)
    if name == "eagle3_1":
        for chunk in range(3):
            weights.norm(f"fc_norm.{chunk}.weight", hidden)
    drafted = torch.randperm(sizes.vocab, generator=weights.random)[: sizes.draft_vocab]
    drafted = drafted.sort().values
    weights.tensors["d2t"] = drafted - torch.arange(sizes.draft_vocab)
    weights.tensors["t2d"] = torch.zeros(sizes.vocab, dtype=torch.bool).index_fill(0, drafted, True)


def _sections(name: str, sizes: Sizes) -> list[int]:
    """Channels of half a head that turn with t, h and w: 16, 24, 24 of 64 in Qwen2-VL and
    Qwen2.5-VL, 24, 20, 20 in Qwen3-VL."""
    half = head_dim(name, sizes) // 2
    side = 5 * half // 16 if name == "angelslim" else 3 * half // 8
    return [half - 2 * side, side, side]


def _layer_config(name: str, sizes: Sizes) -> dict:
    config = {
        "model_type": "llama",
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "num_hidden_layers": 1,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "vocab_size": sizes.vocab,
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        # What Vicuna has, and what Qwen has.
        "rms_norm_eps": 1e-5 if name in ("eagle2", "msd_llava") else 1e-6,
    }
    if carries_head_dim(name):
        config["head_dim"] = sizes.head_dim
    return config


def _eagle2_config(name: str, sizes: Sizes) -> dict:
    config = _layer_config(name, sizes)
    if name == "msd_llava":
        # No rope_theta: this one is left to its default, 10000.
        return config | {"model_type": "llava", "bias": True}
    config["rope_theta"] = sizes.rope_theta
    if name == "msd_qwen":
        # The bias of q, k and v is not in the file: MSD's Qwen2-VL layer always has it.
        mrope = {"type": "mrope", "mrope_section": _sections(name, sizes)}
        return config | {"model_type": "qwen2_vl", "bias": True, "rope_scaling": mrope}
    return config | {"qkv_bias": name in QKV_BIAS}


def _eagle3_config(name: str, sizes: Sizes) -> dict:
    layer = _layer_config(name, sizes)
    if name in SPECULATORS:
        return _speculators_config(name, layer, sizes)
    config = layer | {"draft_vocab_size": sizes.draft_vocab, "rope_theta": sizes.rope_theta}
    if name == "eagle3":
        return config | {"architectures": ["LlamaForCausalLM"]}
    mrope = {"type": "mrope", "mrope_section": _sections(name, sizes)}
    if name == "specforge":
        return config | {
            "architectures": ["LlamaForCausalLMEagle3"],
            "target_model_type": "qwen2_5_vl",
            "rope_scaling": mrope,
            "tie_word_embeddings": False,
        }
    return config | {
        "architectures": ["Eagle3LlamaForCausalLM"],
        "modal_type": "VLM",
        "rope_scaling": mrope,
        # Counted as outputs of layers.
        "aux_hidden_states_layer_ids": [1, sizes.target_layers // 2 - 1, sizes.target_layers - 4],
        # Copied from the target's config: lm_head.weight is in the file and is not the embedding.
        "tie_word_embeddings": True,
    }


def _speculators_config(name: str, layer: dict, sizes: Sizes) -> dict:
    if name == "speculators":
        # As transformers 5 nests it.
        rope = {"rope_parameters": {"rope_type": "default", "rope_theta": sizes.rope_theta}}
        layer = layer | {"model_type": "qwen3"} | rope
    else:
        layer = layer | {"rope_theta": sizes.rope_theta}
    return {
        "architectures": ["Eagle3DraftModel" if name == "eagle3_1" else "Eagle3Speculator"],
        "speculators_model_type": "eagle3",
        "speculators_config": {"verifier": {"name_or_path": "tiny-target"}},
        "transformer_layer_config": layer,
        "draft_vocab_size": sizes.draft_vocab,
        "target_hidden_size": sizes.hidden,
        "norm_before_residual": name == "speculators",
        "norm_before_fc": name == "speculators_norm_before_fc",
        "fc_norm": name == "eagle3_1",
        "norm_output": name == "eagle3_1",
        # Counted as inputs of layers.
        "eagle_aux_hidden_state_layer_ids": [
            2,
            sizes.target_layers // 2,
            sizes.target_layers - 3,
        ],
    }
