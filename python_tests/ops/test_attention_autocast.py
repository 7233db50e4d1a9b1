"""Attention under autocast and under a FLOP counter: as PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import sparrow_kernels as sk

LAYOUT = sk.build_tree(torch.tensor([[-1, 0, 0, 1, 1], [-1, 0, 1, 0, 2]], dtype=torch.int32))
LENGTHS = torch.tensor([4, 9], dtype=torch.int32)
STARTS = torch.tensor([1, 0], dtype=torch.int32)
QUERY = torch.randn(2, 4, 5, 8)
KEY, VALUE = torch.randn(2, 2, 2, 16, 8).unbind()
ANCHORS = torch.arange(32).view(2, 16) % 3 == 0  # slot 0, left padding, among them


def tree(query: Tensor, key: Tensor, value: Tensor, **keywords) -> Tensor:
    return sk.tree_attention(query, key, value, LAYOUT.ancestors, LENGTHS, **keywords)


def window(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return sk.anchored_window_attention(query, key, value, ANCHORS, window=3)


def sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)


@pytest.mark.parametrize("attend", [tree, window])
def test_autocast_casts_what_sdpa_casts(attend) -> None:
    inputs = (QUERY, KEY, VALUE)
    with torch.autocast("cpu", torch.bfloat16):
        for mixed in (inputs, (QUERY, KEY, VALUE.bfloat16()), (QUERY.half(), KEY, VALUE)):
            got = attend(*mixed)
            cast = [x.bfloat16() for x in mixed]
            with torch.autocast("cpu", enabled=False):
                assert torch.equal(got, attend(*cast))
            assert got.dtype == sdpa(*mixed).dtype == torch.bfloat16
        doubled = [x.double() for x in inputs]
        assert attend(*doubled).dtype == sdpa(*doubled).dtype == torch.float64
        compiled = torch.compile(attend, fullgraph=True, backend="eager")
        assert torch.equal(compiled(*inputs), attend(*inputs))
    assert attend(*inputs).dtype == torch.float32


def test_autocast_reaches_a_gradient_and_leaves_out_alone() -> None:
    query = torch.randn(2, 4, 16, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = window(query, KEY, VALUE)
        assert tree(QUERY, KEY, VALUE, out=torch.empty_like(QUERY)).dtype == torch.float32
    (grad,) = torch.autograd.grad(out.float().sum(), query)
    assert grad.dtype == torch.float32 and bool(grad.any())


def flops(function, *args: Tensor, **keywords) -> int:
    with FlopCounterMode(display=False) as counter:
        function(*args, **keywords)
    return counter.get_total_flops()


def tree_pairs(anchored: bool) -> int:
    """Pairs of a row and a slot that it sees, one by one."""
    pairs = int(sk.unpack_ancestors(LAYOUT.ancestors, 5).sum())
    for b in range(2):
        for depth in LAYOUT.depth[b].tolist():
            for slot in range(int(STARTS[b]), int(LENGTHS[b])):
                near = int(LENGTHS[b]) + depth - slot < 3
                pairs += not anchored or near or bool(ANCHORS[b, slot])
    return pairs


def test_flops_of_tree_attention_are_those_of_what_is_seen() -> None:
    a_pair = 4 * QUERY.shape[1] * QUERY.shape[3]
    given = {"prefix_starts": STARTS}
    assert flops(tree, QUERY, KEY, VALUE, **given) == a_pair * tree_pairs(False)
    given |= {"out": torch.empty_like(QUERY)}
    assert flops(tree, QUERY, KEY, VALUE, **given) == a_pair * tree_pairs(False)
    given |= {"anchors": sk.anchor_index(ANCHORS), "window": 3, "depth": LAYOUT.depth}
    assert flops(tree, QUERY, KEY, VALUE, **given) == a_pair * tree_pairs(True)


def test_flops_of_the_window_and_its_derivatives() -> None:
    query = torch.randn(2, 4, 7, 8)
    pairs = sum(
        bool(ANCHORS[b, j]) or i - j < 3
        for b in range(2)
        for i in range(9, 16)
        for j in range(i + 1)
    )
    product = 2 * query.shape[1] * query.shape[3] * pairs
    assert flops(window, query, KEY, VALUE) == 2 * product

    def gradients(query: Tensor) -> None:
        window(query, KEY, VALUE).sum().backward()

    assert flops(gradients, query.clone().requires_grad_()) == (2 + 5) * product
    moved = flops(
        lambda query: torch.func.jvp(lambda q: window(q, KEY, VALUE), (query,), (query,)), query
    )
    assert moved == (2 + 5) * product
    with torch.inference_mode():  # no autograd key to pass by
        assert flops(window, query, KEY, VALUE) == 2 * product


def test_flops_of_a_traced_call_are_those_of_all_slots() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = [mode.from_tensor(x) for x in (QUERY, KEY, VALUE)]
        words, lengths = mode.from_tensor(LAYOUT.ancestors), mode.from_tensor(LENGTHS)
        total = flops(sk.tree_attention, *fakes, words, lengths)
    assert total == 4 * QUERY.numel() * KEY.shape[2]
    # A graph calls the op by its name.
    program = torch.export.export(_Window(), (QUERY.repeat(1, 1, 2, 1), KEY, VALUE))
    counted = flops(program.module(), QUERY.repeat(1, 1, 2, 1), KEY, VALUE)
    assert counted == flops(window, QUERY.repeat(1, 1, 2, 1), KEY, VALUE) > 0


class _Window(torch.nn.Module):
    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return window(query, key, value)
