"""The Triton tree attention at the sizes of a long clip, which only a GPU can run."""

import pytest
import torch
from attention_oracle import tree_bits, words_of

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import tree_attention
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
