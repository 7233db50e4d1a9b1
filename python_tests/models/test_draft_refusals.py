"""Drafts whose weights and config.json do not go together, or not with the target: refused by name.

What `strict=False` lets pass is said in a warning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from broken_drafts import FACTS, SIZES, changed, converted, refusal
from draft_files import EAGLE2_FAMILY, EAGLE3_FAMILY, FORMATS, QKV_BIAS, draft_files

HIDDEN, VOCAB, DRAFTED = SIZES.hidden, SIZES.vocab, SIZES.draft_vocab
# Without these a file says another format, or nothing less.
_OPTIONAL = {
    "sparrow": {"input_layernorm.weight"},
    "msd_qwen": {"layers.0.input_layernorm.weight"},
    **dict.fromkeys(EAGLE3_FAMILY, {"t2d"}),
}
_SAY_THEIR_ROWS = ("attn.o_proj.weight", "gate_proj.weight", "lm_head.weight", "residual", ".q")
# What names a weight that is missing, where it is not the weight's own name.
_NAMED = {"fc_norm.0.weight": "fc_norm", "input_norm.weight": "norm_before_fc", "residual": "fc"}
REQUIRED = [
    pytest.param(name, key, id=f"{name} {key}")
    for name in FORMATS
    for key in draft_files(name, SIZES).tensors
    if key not in _OPTIONAL.get(name, ())
]


@pytest.mark.parametrize("name, key", REQUIRED)
def test_each_weight_that_is_missing(tmp_path: Path, name: str, key: str) -> None:
    for strict in (True, False):
        message = refusal(converted, tmp_path, changed(name, without=[key]), strict=strict)
        assert message.startswith(f"draft {tmp_path}: ") and _NAMED.get(key, key) in message
        if key != "residual":
            assert ", " not in message.partition(", got none")[0]  # and no other


@pytest.mark.parametrize("name", FORMATS)
def test_each_weight_of_a_wrong_shape(tmp_path: Path, name: str) -> None:
    for key, tensor in draft_files(name, SIZES).tensors.items():
        wrong = torch.cat([tensor, tensor[:1]])
        if key.endswith(_SAY_THEIR_ROWS):
            wrong = tensor[:, 1:]
        for shape in (wrong, tensor.new_ones(())):
            message = refusal(converted, tmp_path, changed(name, tensors={key: shape.contiguous()}))
            part = key.rpartition(".")[0].rpartition(".")[2]
            assert part in message or key in message, key
            assert "must" in message


@pytest.mark.parametrize("name", FORMATS)
def test_weights_that_nobody_asks_for(tmp_path: Path, name: str) -> None:
    more = {f"gate.{number}": torch.ones(2) for number in range(8)}
    files = changed(name, tensors=more)
    message = refusal(converted, tmp_path, files)
    assert "gate.0, gate.1, gate.2, gate.3, gate.4, gate.5 and 2 more" in message
    with pytest.warns(UserWarning, match="got gate.0, gate.1.* and 2 more"):
        draft = converted(tmp_path, files, strict=False)
    expected = converted(tmp_path, changed(name)).state_dict()
    assert draft.state_dict().keys() == expected.keys()


def test_weights_of_whole_numbers(tmp_path: Path) -> None:
    tensors = {"fc.weight": torch.ones(HIDDEN, 3 * HIDDEN, dtype=torch.int8)}
    message = refusal(converted, tmp_path, changed(tensors=tensors))
    assert "fc.weight must hold numbers of floating point, got torch.int8" in message


class TestDraftedIds:
    @pytest.mark.parametrize(
        "row, offset, said",
        [
            (DRAFTED - 1, VOCAB, f"got {DRAFTED - 1 + VOCAB} for row {DRAFTED - 1}"),
            (0, -1, "got -1 for row 0"),
            (3, -4, "got -1 for row 3"),
            (0, VOCAB, f"ids of 0 to {VOCAB - 1}, got {VOCAB} for row 0"),
        ],
    )
    def test_out_of_the_vocabulary(self, tmp_path: Path, row: int, offset: int, said: str) -> None:
        offsets = torch.zeros(DRAFTED, dtype=torch.int64)
        offsets[row] = offset
        assert said in refusal(converted, tmp_path, changed(tensors={"d2t": offsets}))

    def test_twice(self, tmp_path: Path) -> None:
        offsets = torch.zeros(DRAFTED, dtype=torch.int64)
        offsets[4] = 3
        message = refusal(converted, tmp_path, changed(tensors={"d2t": offsets}))
        assert "each id once, got 7 more than once" in message

    @pytest.mark.parametrize("length", [0, DRAFTED - 1, DRAFTED + 1, VOCAB])
    def test_of_another_length(self, tmp_path: Path, length: int) -> None:
        offsets = torch.zeros(length, dtype=torch.int64)
        message = refusal(converted, tmp_path, changed(tensors={"d2t": offsets}))
        assert f"d2t must be [{DRAFTED}], got [{length}]" in message

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool])
    def test_not_whole(self, tmp_path: Path, dtype: torch.dtype) -> None:
        offsets = torch.zeros(DRAFTED, dtype=dtype)
        message = refusal(converted, tmp_path, changed(tensors={"d2t": offsets}))
        assert f"d2t must hold whole numbers, got {dtype}" in message

    def test_of_fewer_bits(self, tmp_path: Path) -> None:
        expected = converted(tmp_path, changed()).network.draft_ids
        offsets = changed().tensors["d2t"].to(torch.int16)
        draft = converted(tmp_path, changed(tensors={"d2t": offsets}))
        assert torch.equal(draft.network.draft_ids, expected)
        assert draft.network.draft_ids.dtype == torch.int64


class TestLayers:
    @pytest.mark.parametrize("name", ["specforge", "eagle2", "vispec"])
    def test_more_said_than_there(self, tmp_path: Path, name: str) -> None:
        with pytest.warns(UserWarning, match="says 40 layers, and there are weights of 1"):
            draft = converted(tmp_path, changed(name, {"num_hidden_layers": 40}))
        expected = converted(tmp_path, changed(name)).state_dict()
        assert all(torch.equal(draft.state_dict()[key], expected[key]) for key in expected)

    @pytest.mark.parametrize("strict", [True, False])
    def test_two(self, tmp_path: Path, strict: bool) -> None:
        first = changed("eagle2").tensors
        second = {key.replace("layers.0", "layers.1"): first[key] for key in first}
        message = refusal(converted, tmp_path, changed("eagle2", tensors=second), strict=strict)
        assert "must have one layer, got 2" in message

    @pytest.mark.parametrize("strict", [True, False])
    def test_a_config_without_keys(self, tmp_path: Path, strict: bool) -> None:
        nothing = dict.fromkeys(changed().config)
        message = refusal(converted, tmp_path, changed(config=nothing), strict=strict)
        assert "config.json must have num_attention_heads or head_dim, got neither" in message


class TestTarget:
    @pytest.mark.parametrize("name", ["specforge", "speculators", "eagle2", "vispec"])
    def test_another_hidden_size(self, tmp_path: Path, name: str) -> None:
        facts = FACTS._replace(hidden=80, embedding=None, lm_head=None)
        config = {} if name == "speculators" else {"target_hidden_size": None}
        message = refusal(converted, tmp_path, changed(name, config), facts)
        assert "80" in message and (
            "hidden size 64" in message or "states of the target" in message
        )

    @pytest.mark.parametrize("name", ["specforge", "speculators", "eagle2"])
    def test_another_vocabulary(self, tmp_path: Path, name: str) -> None:
        facts = FACTS._replace(vocabulary=VOCAB + 3, embedding=None, lm_head=None)
        message = refusal(converted, tmp_path, changed(name, without=["t2d"]), facts)
        assert f"vocab_size {VOCAB}, not {VOCAB + 3}" in message
        with pytest.warns(UserWarning, match=f"vocab_size {VOCAB}, not {VOCAB + 3}"):
            draft = converted(tmp_path, changed(name, without=["t2d"]), facts, strict=False)
        assert draft.config.vocab_size == VOCAB + 3

    def test_another_vocabulary_by_the_weights(self, tmp_path: Path) -> None:
        files = changed(config={"vocab_size": None}, tensors={"t2d": torch.ones(VOCAB + 3)})
        message = refusal(converted, tmp_path, files)
        assert f"t2d {VOCAB + 3}, not {VOCAB}" in message

    def test_another_family(self, tmp_path: Path) -> None:
        files = changed(config={"target_model_type": "qwen3_vl"})
        assert "of qwen3_vl, not qwen2_5_vl" in refusal(converted, tmp_path, files)
        with pytest.warns(UserWarning, match="of qwen3_vl, not qwen2_5_vl"):
            draft = converted(tmp_path, files, strict=False)
        assert draft.config.target_model_type == "qwen2_5_vl"


class TestPromises:
    """What config.json says is there, and is not."""

    @pytest.mark.parametrize("key", ["qkv_bias", "attention_bias"])
    @pytest.mark.parametrize("name", ["eagle2", "specforge"])
    def test_biases_of_q_k_and_v(self, tmp_path: Path, name: str, key: str) -> None:
        message = refusal(converted, tmp_path, changed(name, {"qkv_bias": None, key: True}))
        assert "must have the biases of q, k and v" in message

    @pytest.mark.parametrize("name", QKV_BIAS)
    def test_some_of_them(self, tmp_path: Path, name: str) -> None:
        names = {each: f"layers.0.self_attn.{each}_proj.bias" for each in "qkv"}
        for there in "qkv":
            without = [key for each, key in names.items() if each != there]
            message = refusal(converted, tmp_path, changed(name, without=without))
            assert f"must have {without[0]}" in message

    @pytest.mark.parametrize("name", EAGLE2_FAMILY)
    def test_the_bias_of_fc(self, tmp_path: Path, name: str) -> None:
        without = ["fc.bias"]
        assert "must have fc.bias" in refusal(converted, tmp_path, changed(name, without=without))
        if name != "vispec":  # whose bias another weight's is added to
            draft = converted(tmp_path, changed(name, {"bias": False}, without=without))
            assert draft.network.fc.bias is None

    @pytest.mark.parametrize("key", ["fc_norm", "norm_before_fc"])
    def test_norms_of_the_states(self, tmp_path: Path, key: str) -> None:
        message = refusal(converted, tmp_path, changed("eagle3", {key: True}))
        assert f"must have the norm that config.json speaks of ({key})" in message


@pytest.mark.parametrize(
    "config, said",
    [
        ({"head_dim": 24}, "q_proj must have a row for each channel of its heads, 4 of 24"),
        ({"head_dim": 128, "num_attention_heads": None}, "q_proj must have a row for each channel"),
        ({"num_attention_heads": 8}, "heads, 8 of 16 by config, got 64"),
        ({"head_dim": 64, "num_attention_heads": 1}, "k_proj must have rows for heads of 64"),
        ({"head_dim": 0}, "head_dim in config.json must be a whole number of at least 1, got 0"),
        ({"head_dim": -16}, "head_dim in config.json must be a whole number of at least 1"),
        ({"num_attention_heads": "4"}, "num_attention_heads in config.json must be a whole number"),
        ({"target_hidden_size": 64.5}, "target_hidden_size in config.json must be a whole number"),
        ({"rope_theta": "much"}, "rope_theta must be a number above 0, got 'much'"),
        ({"rope_theta": -1e6}, "rope_theta must be a number above 0, got -1000000.0"),
        ({"rms_norm_eps": [1]}, "rms_norm_eps must be a number above 0, got [1]"),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": 3}}, "must be a list of layers"),
        ({"aux_hidden_states_layer_ids": ["1"]}, "must be a list of layers, got ['1']"),
    ],
)
def test_numbers_that_cannot_be(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    for strict in (True, False):
        assert said in refusal(converted, tmp_path, changed(config=config), strict=strict)


@pytest.mark.parametrize(
    "config, said",
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "got one of type 'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "got one of type 'linear'"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "got one of type 'llama3'"),
        ({"partial_rotary_factor": 0.5}, "got a partial_rotary_factor"),
        ({"rope_parameters": {"partial_rotary_factor": 0.25}}, "got a partial_rotary_factor"),
        ({"layer_types": ["sliding_attention"]}, "got layers with a sliding window"),
        ({"use_sliding_window": True}, "got layers with a sliding window"),
        ({"hidden_act": "gelu"}, "must have silu in its MLP, got gelu"),
        ({"rope_scaling": {"mrope_section": [1, 1, 1]}}, "mrope_section must be three halves"),
        ({"rope_scaling": {"mrope_section": "2, 3, 3"}}, "mrope_section must be three halves"),
    ],
)
def test_what_is_not_computed(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    files = changed(config=config)
    message = refusal(converted, tmp_path, files)
    assert said in message and message.endswith("(strict=False loads it all the same)")
    with pytest.warns(UserWarning) as caught:
        converted(tmp_path, files, strict=False)
    assert [said in str(each.message) for each in caught] == [True]
