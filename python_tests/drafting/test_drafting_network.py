"""The draft's layer against its formula, and its shape against its target's layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from family_cases import draft_for, tiny
from torch import Tensor

from sparrow_kernels.drafting import SparrowDraft, SparrowDraftConfig
from sparrow_kernels.drafting.network import DraftNetwork, LayerShape
from sparrow_kernels.drafting.rotary import rotary_table, rotate
from sparrow_kernels.drafting.self_feeding import self_fed_outputs

SIZES = {"hidden": 24, "intermediate": 20, "heads": 4, "kv_heads": 2, "head_dim": 8}


def normed(value: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    return value * (value.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


def formula(network: DraftNetwork, embeddings: Tensor, hidden: Tensor, theta: float) -> Tensor:
    """One sequence `[R, H]`, head by head, row by row."""
    shape = network.shape
    length, size = embeddings.shape[0], shape.head_dim
    rows = torch.cat([normed(embeddings, network.embedding_norm), hidden], dim=-1)
    rows = rows @ network.fc.weight.T + network.fc.bias
    fused = normed(rows, network.attention_norm) @ network.qkv.weight.T
    if network.qkv.bias is not None:
        fused = fused + network.qkv.bias
    heads = list(fused.split(size, dim=-1))
    keys, values = heads[shape.heads :][: shape.kv_heads], heads[shape.heads + shape.kv_heads :]
    cos, sin = rotary_table(length, size, theta, rows.device, rows.dtype)
    attended = []
    for number, query in enumerate(heads[: shape.heads]):
        group = number // (shape.heads // shape.kv_heads)
        key = keys[group]
        if shape.query_key_norm:
            query, key = normed(query, network.query_norm), normed(key, network.key_norm)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        for row in range(length):
            weights = (key[: row + 1] @ query[row] * size**-0.5).softmax(0)
            attended.append(weights @ values[group][: row + 1])
    joined = torch.stack(attended).view(shape.heads, length, size).transpose(0, 1).flatten(1)
    rows = rows + joined @ network.out.weight.T
    gate, up = (normed(rows, network.mlp_norm) @ network.gate_up.weight.T).chunk(2, dim=-1)
    return rows + (gate * torch.sigmoid(gate) * up) @ network.down.weight.T


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("norms", [True, False], ids=["q and k normed", "as they are"])
def test_a_forward_is_the_formula_s(norms: bool, bias: bool) -> None:
    torch.manual_seed(0)
    network = DraftNetwork(LayerShape(**SIZES, attention_bias=bias, query_key_norm=norms)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
        embeddings, hidden = torch.randn(2, 9, SIZES["hidden"], dtype=torch.float64)
        (ours,) = self_fed_outputs(network, embeddings[None], hidden[None], 1, 100.0)
        torch.testing.assert_close(ours[0], formula(network, embeddings, hidden, 100.0))


@pytest.mark.parametrize(
    ("name", "bias", "norms"),
    [
        ("qwen2_5_vl", True, False),
        ("qwen3_vl", False, True),
        ("Qwen3", False, True),
        ("Llama", False, False),
    ],
)
def test_a_fresh_draft_is_shaped_like_its_target_s_layer(
    name: str, bias: bool, norms: bool
) -> None:
    config = draft_for(name).config
    assert (config.attention_bias, config.query_key_norm) == (bias, norms)
    layer = tiny(name).target.get_decoder().layers[0].self_attn
    network = draft_for(name).network
    assert network.qkv.weight.shape[0] == sum(
        each.weight.shape[0] for each in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    if norms:
        assert network.query_norm.shape == layer.q_norm.weight.shape
        assert bool((network.query_norm == 1).all() and (network.key_norm == 1).all())


def test_a_draft_with_norms_comes_back_from_disk(tmp_path: Path) -> None:
    draft = SparrowDraft.for_target(tiny("qwen3_vl").target)
    with torch.no_grad():
        draft.network.query_norm.uniform_()
    draft.save_pretrained(tmp_path)
    back = SparrowDraft.from_pretrained(tmp_path)
    assert back.config.query_key_norm
    for name, parameter in draft.named_parameters():
        assert torch.equal(parameter, back.get_parameter(name))


def test_drafts_saved_before_there_were_norms_load_unchanged(tmp_path: Path) -> None:
    draft = SparrowDraft.for_target(tiny("qwen3_vl").target, query_key_norm=False)
    draft.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert '"query_key_norm": false' in text
    (tmp_path / "config.json").write_text(text.replace('  "query_key_norm": false,\n', ""))
    assert "query_key_norm" not in (tmp_path / "config.json").read_text()
    back = SparrowDraft.from_pretrained(tmp_path)
    assert not back.config.query_key_norm
    assert dict(back.named_parameters()).keys() == dict(draft.named_parameters()).keys()
    assert not SparrowDraftConfig().query_key_norm
