"""transformers' own caches: their tensors, their lengths, a commit in them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache
from transformers.cache_utils import DynamicSlidingWindowLayer

from sparrow_kernels import accept_tree, build_tree, checks, commit_tree_, dense_tree_mask
from sparrow_kernels.integrations import transformers_cache as ours

int32 = torch.int32
PROMPT = torch.tensor([[5, 9, 2, 7]])
PARENT = torch.tensor([[-1, 0, 0, 1, 2, 4]], dtype=int32)


def config(**more: object) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(config()).eval()


def new_cache(kind: str) -> Any:
    return StaticCache(config=config(), max_cache_len=24) if kind == "static" else DynamicCache()


KINDS = pytest.mark.parametrize("kind", ["static", "dynamic"])


@KINDS
def test_tensors_and_lengths_are_the_caches_own(kind: str, model: LlamaForCausalLM) -> None:
    cache = new_cache(kind)
    with torch.no_grad():
        model(PROMPT.repeat(2, 1), past_key_values=cache)
    keys, values = ours.caches(cache)
    assert [each.shape for each in keys] == [(2, 2, 24 if kind == "static" else 4, 8)] * 2
    assert keys[1] is cache.layers[1].keys and values[0] is cache.layers[0].values
    lens = ours.prefix_lens(cache, 2)
    assert (lens.tolist(), lens.dtype) == ([4, 4], int32)
    assert ours.prefix_lens(cache, 2, num_rows=3).tolist() == [1, 1]
    lens += 7  # a commit advances it
    assert ours.prefix_lens(cache, 2).tolist() == [4, 4]
    ours.set_length_(cache, torch.tensor([3, 3], dtype=int32))
    assert int(cache.get_seq_length()) == 3
    assert ours.prefix_lens(cache, 2).tolist() == [3, 3]
    ours.set_length_(cache, torch.tensor([3, 3], dtype=int32))
    assert int(cache.get_seq_length()) == 3


@KINDS
def test_after_a_commit_the_model_goes_on(kind: str, model: LlamaForCausalLM) -> None:
    """A tree through transformers' own forward, a commit in its cache, and on as without a tree."""
    cache, layout, nodes = new_cache(kind), build_tree(PARENT), PARENT.shape[1]
    with torch.no_grad():
        root = int(model(PROMPT, past_key_values=cache).logits[0, -1].argmax())
        before = ours.prefix_lens(cache, 1)
        right = int(model(torch.cat((PROMPT, torch.tensor([[root]])), 1)).logits[0, -1].argmax())
        # The second child of the root is right, its own child most likely not.
        tokens = torch.tensor([[root, (right + 1) % 64, right, 1, 2, 3]])
        capacity = 24 if kind == "static" else int(before) + nodes
        sees = dense_tree_mask(layout, before, capacity)
        targets = model(
            tokens,
            past_key_values=cache,
            position_ids=before[:, None] + layout.depth,
            attention_mask=torch.where(sees, 0.0, torch.finfo(torch.float32).min),
        ).logits.argmax(-1)
        lens = ours.prefix_lens(cache, 1, num_rows=nodes)
        assert torch.equal(lens, before)
        expected = accept_tree(tokens, layout, targets, 4)
        accepted, _ = commit_tree_(
            tokens, layout, targets, *ours.caches(cache), [], lens, max_path=4
        )
        assert torch.equal(accepted.path, expected.path) and accepted.path[0, 1] == 2
        ours.set_length_(cache, lens)
        emitted = accepted.tokens[accepted.tokens >= 0]
        text = torch.cat((PROMPT[0], tokens[0, :1], emitted))
        assert int(cache.get_seq_length()) == len(text) - 1
        ahead = model(emitted[None, -1:], past_key_values=cache).logits[0, -1]
        anew = model(text[None]).logits[0, -1]
    torch.testing.assert_close(ahead, anew, rtol=1e-4, atol=1e-5)


def test_refusals(model: LlamaForCausalLM) -> None:
    static, dynamic = new_cache("static"), new_cache("dynamic")
    with torch.no_grad():
        for cache in (static, dynamic):
            model(PROMPT.repeat(2, 1), past_key_values=cache)
    sliding = SimpleNamespace(layers=[DynamicSlidingWindowLayer(sliding_window=8)])
    layer = dynamic.layers[0]
    quantised = SimpleNamespace(keys=layer.keys, values=layer.values, _quantized_keys=None)
    away = SimpleNamespace(layers=dynamic.layers, offloading=True)

    def lens(*values: int) -> torch.Tensor:
        return torch.tensor(values, dtype=int32)

    cases = [
        (lambda: ours.caches(new_cache("static")), ValueError, "layer 0, a StaticLayer.*prompt"),
        (lambda: ours.caches(new_cache("dynamic")), ValueError, "written to before"),
        (lambda: ours.caches(sliding), ValueError, "DynamicSlidingWindowLayer .a sliding window"),
        (lambda: ours.caches(SimpleNamespace(layers=[quantised])), ValueError, "what is written"),
        (lambda: ours.caches(away), ValueError, "offloaded"),
        (lambda: ours.caches(((1, 2),)), TypeError, "layers with keys.*tuple"),
        (lambda: ours.prefix_lens(static, 2, num_rows=5), ValueError, r"num_rows\[0\] = -1"),
        (lambda: ours.prefix_lens(dynamic, 2, num_rows=5), ValueError, "at most the 4 slots"),
        (lambda: ours.set_length_(static, lens(3, 2)), ValueError, r"prefix_lens\[1\] = 2"),
        (lambda: ours.set_length_(dynamic, lens(3, 2)), ValueError, r"\[3, 2\]"),
        (lambda: ours.set_length_(static, lens(25, 25)), ValueError, "at most 24"),
        (lambda: ours.set_length_(dynamic, lens(5, 5)), ValueError, "at most 4"),
        (lambda: ours.set_length_(static, lens(3)), ValueError, r"\[2\], got \[1\]"),
        (lambda: ours.set_length_(static, lens(3, 3).long()), TypeError, "int64"),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()
    assert ours.prefix_lens(static, 1).tolist() == ours.prefix_lens(dynamic, 1).tolist() == [4]
    with checks(False):
        ours.set_length_(static, lens(3, 2))
    assert ours.prefix_lens(static, 1).tolist() == [3]
