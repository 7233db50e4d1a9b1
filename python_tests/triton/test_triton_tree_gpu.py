"""The Triton tree attention at the sizes of a long clip, which only a GPU can run."""

import pytest
import torch
from attention_oracle import tree_bits, words_of

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import anchor_index, append_cache_, tree_attention
from sparrow_kernels.testing import assert_close

PREFIX, HEADS, KV_HEADS, HEAD_DIM = 25_600, 28, 4, 128
REPEATS = 200


@pytest.mark.gpu
@pytest.mark.parametrize("nodes", [1, 8, 30, 60])
@pytest.mark.parametrize("past", [0, 77], ids=["whole tiles", "off the tile"])
def test_a_long_prefix_is_right_and_has_the_same_bits_each_time(nodes, past):
    """What a copy that lands late, or an operand read early, would change now and then."""
    length = PREFIX + past
    generator = torch.Generator("cuda").manual_seed(nodes)

    def draw(heads, slots):
        shape = (1, heads, slots, HEAD_DIM)
        return torch.randn(shape, generator=generator, device="cuda").bfloat16()

    query, key, value = draw(HEADS, nodes), draw(KV_HEADS, length + 64), draw(KV_HEADS, length + 64)
    bits = tree_bits([-1, *((node - 1) // 2 for node in range(1, nodes))])
    words = torch.tensor(words_of(bits, 1), device="cuda")[None]
    lens = torch.tensor([length], dtype=torch.int32, device="cuda")
    with env.backend("triton"):
        out, lse = tree_attention(query, key, value, words, lens, return_lse=True)
        for _ in range(REPEATS):
            again, again_lse = tree_attention(query, key, value, words, lens, return_lse=True)
            assert torch.equal(again, out) and torch.equal(again_lse, lse)

    seen = torch.zeros(nodes, length + 64, dtype=torch.bool, device="cuda")
    seen[:, :length] = True
    for node, ancestors in enumerate(bits):
        for slot in range(nodes):
            seen[node, length + slot] = bool(ancestors >> slot & 1)
    keys, values = (each.repeat_interleave(HEADS // KV_HEADS, 1) for each in (key, value))
    scores = query.double() @ keys.double().mT * HEAD_DIM**-0.5
    scores.masked_fill_(~seen, -torch.inf)
    exact = scores.softmax(-1) @ values.double()
    rounded = torch.nn.functional.scaled_dot_product_attention(query, keys, values, seen)
    assert_close(out.cpu(), exact.cpu(), rounded.cpu(), summands=1.0)
    plain = (query.float() @ keys.float().mT * HEAD_DIM**-0.5).masked_fill_(~seen, -torch.inf)
    # The kernel adds weights up over hundreds of tiles, each time scaled anew.
    assert_close(
        lse.cpu(), scores.logsumexp(-1).cpu(), plain.logsumexp(-1).cpu(), name="lse", summands=32.0
    )


@pytest.mark.gpu
@pytest.mark.parametrize("visual", [500, 25_000])
def test_anchors_around_a_clip_replayed_by_a_graph(visual):
    """A draft's attention: nothing of the clip is read, however often and in whatever graph."""
    nodes, before, window = 8, 150, 128
    length = visual + 2 * before
    generator = torch.Generator("cuda").manual_seed(visual)

    def draw(heads, slots):
        shape = (1, heads, slots, HEAD_DIM)
        return torch.randn(shape, generator=generator, device="cuda").bfloat16()

    query, key, value = draw(HEADS, nodes), draw(KV_HEADS, length + 64), draw(KV_HEADS, length + 64)
    is_anchor = torch.zeros(1, length + 64, dtype=torch.bool, device="cuda")
    is_anchor[:, :before] = is_anchor[:, before + visual : length] = True
    anchors = anchor_index(is_anchor, 2 * before)
    seen = torch.zeros(nodes, length + 64, dtype=torch.bool, device="cuda")
    seen[:, :length] = is_anchor[:, :length]
    seen[:, length - window + 1 : length] = True  # of depth 0: none reaches the clip
    seen[:, length : length + nodes] = torch.eye(nodes, dtype=torch.bool, device="cuda")
    words = torch.tensor(words_of([1 << node for node in range(nodes)], 1), device="cuda")[None]
    lens = torch.tensor([length], dtype=torch.int32, device="cuda")
    depth = torch.zeros(1, nodes, dtype=torch.int32, device="cuda")
    # What a row must not see would make it NaN.
    for cache in (key, value):
        cache[:, :, ~seen.any(0)] = torch.nan

    def attend():
        return tree_attention(
            query, key, value, words, lens, anchors=anchors, window=window, depth=depth
        )

    with env.backend("triton"):
        out = attend()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            copies = [attend() for _ in range(20)]
        for _ in range(REPEATS):
            graph.replay()
            assert all(torch.equal(copy, out) for copy in copies)
    keys, values = (
        each.nan_to_num().repeat_interleave(HEADS // KV_HEADS, 1) for each in (key, value)
    )
    scores = (query.double() @ keys.double().mT * HEAD_DIM**-0.5).masked_fill_(~seen, -torch.inf)
    exact = scores.softmax(-1) @ values.double()
    rounded = torch.nn.functional.scaled_dot_product_attention(query, keys, values, seen)
    assert_close(out.cpu(), exact.cpu(), rounded.cpu(), summands=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("nodes", [1, 8, 30])
@pytest.mark.parametrize("length", [200, PREFIX])
def test_each_kernel_reads_what_the_one_before_has_written(nodes, length):
    """Layers on layers in one graph, whose merges begin early. The growing scale keeps them from
    one fixed point, where an old value would be the new one."""
    generator = torch.Generator("cuda").manual_seed(nodes)

    def draw(heads, slots):
        shape = (1, heads, slots, HEAD_DIM)
        return torch.randn(shape, generator=generator, device="cuda").bfloat16()

    query, key, value = draw(HEADS, nodes), draw(KV_HEADS, length + 64), draw(KV_HEADS, length + 64)
    words = torch.tensor(words_of([1 << node for node in range(nodes)], 1), device="cuda")[None]
    lens = torch.tensor([length], dtype=torch.int32, device="cuda")

    def layers(between):
        state = query
        for layer in range(12):
            rows = state[:, :KV_HEADS], state[:, KV_HEADS : 2 * KV_HEADS]
            append_cache_(*rows, key, value, lens)
            between()
            for scale in (1.0 + layer, 1.5 + layer):
                state = tree_attention(state, key, value, words, lens, scale=scale)
                between()
        return state

    with env.backend("triton"):
        expected = layers(torch.cuda.synchronize)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            state = layers(lambda: None)
        for _ in range(REPEATS):
            graph.replay()
            assert torch.equal(state, expected)
