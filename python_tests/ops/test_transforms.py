"""Each op under autograd, torch.func, vmap and checkpointing: derivative, or refusal by name."""

from __future__ import annotations

import pytest
import torch
from attention_oracle import CPU_BACKENDS
from dispatch import opcheck
from torch import Tensor
from torch.autograd import forward_ad, gradcheck
from torch.utils.checkpoint import checkpoint
from transform_cases import (
    ACCEPTED,
    ANCHORS,
    DIFFERENTIABLE,
    INTEGERS,
    KEY,
    OWN,
    REFUSING,
    VALUE,
    Function,
    cache,
    int32,
)

import sparrow_kernels as sk
from sparrow_kernels.ops import accept, attention, gather, tree  # noqa: F401, defines all ops
from sparrow_kernels.ops.registry import defined_ops


@pytest.fixture(autouse=True)
def _same_directions_every_time() -> None:
    torch.manual_seed(0)


def test_every_op_is_here() -> None:
    assert set(defined_ops()) == set(DIFFERENTIABLE) | set(REFUSING) | INTEGERS | OWN


def derivative(function: Function, x: Tensor, tangent: Tensor) -> Tensor:
    """Along `tangent`, by central differences."""
    step = 1e-2
    return (function(x + step * tangent) - function(x - step * tangent)) / (2 * step)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_both_modes_give_the_derivative(name: str) -> None:
    function, x = DIFFERENTIABLE[name]
    tangent, weights = torch.randn_like(x), torch.randn_like(function(x))
    expected = derivative(function, x, tangent)
    total = (expected * weights).sum()

    def loss(x: Tensor) -> Tensor:
        return (function(x) * weights).sum()

    def close(got: Tensor, wanted: Tensor) -> bool:
        return torch.allclose(got, wanted, rtol=2e-2, atol=2e-2)

    assert close(torch.func.jvp(function, (x,), (tangent,))[1], expected)
    with forward_ad.dual_level():
        dual = function(forward_ad.make_dual(x, tangent))
        assert close(forward_ad.unpack_dual(dual).tangent, expected)
    grad = torch.func.grad(loss)(x)
    assert close((grad * tangent).sum(), total)

    leaf = x.clone().requires_grad_()
    (eager,) = torch.autograd.grad(loss(leaf), leaf)
    (again,) = torch.autograd.grad(checkpoint(loss, leaf, use_reentrant=False), leaf)
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.zeros_like(x))
    module.forward = lambda: loss(module.weight)
    called = torch.func.functional_call(module, {"weight": leaf}, ())
    (functional,) = torch.autograd.grad(called, leaf)
    for other in (eager, again, functional):
        assert torch.allclose(grad, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_torch_func_composes(name: str) -> None:
    function, x = DIFFERENTIABLE[name]
    batch = torch.stack([x, x.flip(-1), -x])
    assert torch.allclose(
        torch.vmap(function, out_dims=1)(batch),
        torch.stack([function(each) for each in batch], 1),
        atol=1e-6,
    )

    def loss(x: Tensor) -> Tensor:
        return function(x).sin().sum()

    each = torch.vmap(torch.func.grad(loss))(batch)
    assert torch.allclose(each, torch.stack([torch.func.grad(loss)(x) for x in batch]), atol=1e-6)
    columns, rows = torch.func.jacfwd(function)(x), torch.func.jacrev(function)(x)
    assert torch.allclose(columns, rows, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_several_gradients_at_once(name: str) -> None:
    """Autograd batches them in its own way, which no interpreter of `torch.func` knows of."""
    function, x = DIFFERENTIABLE[name]
    leaf = x.clone().requires_grad_()
    result = function(leaf)
    grads = torch.randn(3, *result.shape)
    (batched,) = torch.autograd.grad(result, leaf, grads, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(result, leaf, grad, retain_graph=True)[0] for grad in grads]
    assert torch.allclose(batched, torch.stack(each), atol=1e-6)


@pytest.mark.parametrize("name", ["gather_hidden", "anchored_window_attention"])
def test_against_double_precision(name: str) -> None:
    function, x = DIFFERENTIABLE[name]
    leaf = x[..., :4].double().requires_grad_()
    twice = {"check_forward_ad": True, "fast_mode": True}
    for backend in CPU_BACKENDS:
        with sk.backend(backend):
            assert gradcheck(function, leaf, **twice)


@pytest.mark.parametrize("name", ["gather_hidden", "merge_attention", "topk_logprobs"])
def test_second_derivatives(name: str) -> None:
    function, x = DIFFERENTIABLE[name]
    tangent = torch.randn_like(x)

    def loss(x: Tensor) -> Tensor:
        return function(x).sin().sum()

    expected = derivative(torch.func.grad(loss), x, tangent)
    twice = torch.func.grad(lambda x: (torch.func.grad(loss)(x) * tangent).sum())(x)
    mixed = torch.func.jvp(torch.func.grad(loss), (x,), (tangent,))[1]
    assert torch.allclose(twice, expected, rtol=2e-2, atol=2e-2)
    assert torch.allclose(mixed, twice, atol=1e-4)


def test_a_second_derivative_of_the_window_is_refused_by_name() -> None:
    function, x = DIFFERENTIABLE["anchored_window_attention"]

    def loss(x: Tensor) -> Tensor:
        return function(x).sin().sum()

    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)  # once: fine
    for twice in (
        lambda: grad.sum().backward(),
        lambda: torch.func.hessian(loss)(x),
        lambda: torch.func.jvp(torch.func.grad(loss), (x,), (x,)),
        lambda: torch.func.grad(lambda x: torch.func.jvp(loss, (x,), (x,))[1])(x),
    ):
        with pytest.raises(NotImplementedError, match="^anchored_window_attention: .* once"):
            twice()


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_forward_mode_in_forward_mode_is_refused_by_name(name: str) -> None:
    """It came out as zero."""
    function, x = DIFFERENTIABLE[name]

    def once(x: Tensor) -> Tensor:
        return torch.func.jvp(lambda x: function(x).sin().sum(), (x,), (x,))[1]

    with pytest.raises(NotImplementedError, match=f"^{name}: .* forward mode in forward mode"):
        torch.func.jvp(once, (x,), (x,))


@pytest.mark.parametrize("name", REFUSING)
def test_the_others_refuse_by_name(name: str) -> None:
    argument, function, x = REFUSING[name]
    leaf = x.clone().requires_grad_()
    schema = torch.ops.sparrow.__getattr__(name).default._schema
    name = name.removesuffix("_out")  # as the function is called
    wants_grad = f"^{name}: {argument} must not require grad"
    for call in (
        lambda: function(leaf),
        lambda: torch.func.grad(lambda x: function(x).sum())(x),
        lambda: checkpoint(function, leaf, use_reentrant=False),
        lambda: torch.compile(function, fullgraph=True, backend="eager")(leaf),
    ):
        with pytest.raises(Exception, match=wants_grad[1:]):
            call()
    with pytest.raises(NotImplementedError, match=f"^{name}: {argument} must not carry a tangent"):
        torch.func.jvp(function, (x,), (x,))
    with torch.no_grad():
        expected, got = function(x), function(leaf)
    assert expected is None or torch.equal(got, expected) and not got.requires_grad

    batch = torch.stack([x, x.flip(-1)])
    if schema.is_mutable:
        with pytest.raises(NotImplementedError, match=f"^{name}: cannot run under vmap"):
            torch.vmap(function)(batch)
    else:
        each = torch.stack([function(x) for x in batch])
        assert torch.allclose(torch.vmap(function)(batch), each, atol=1e-6)


def test_vmap_of_the_integer_ops() -> None:
    parents = torch.tensor([[[-1, 0, 0]], [[-1, 0, 1]]], dtype=torch.int32)
    layouts = torch.vmap(sk.build_tree)(parents)
    at_once = sk.build_tree(parents.flatten(0, 1))
    assert all(torch.equal(a.flatten(0, 1), b) for a, b in zip(layouts, at_once, strict=True))
    tokens = torch.tensor([[[1, 2, 3]], [[1, 2, 3]]])
    accepted = torch.vmap(lambda t, p: sk.accept_tree(t, sk.build_tree(p), t.roll(-1, -1), 3))(
        tokens, parents
    )
    assert accepted.tokens.tolist() == [[[2, 3, -1]], [[2, 3, 1]]]
    masks = torch.vmap(lambda p: sk.dense_tree_mask(sk.build_tree(p), int32(2), 6))(parents)
    assert torch.equal(masks.flatten(0, 1), sk.dense_tree_mask(at_once, int32(2, 2), 6))
    marks = torch.rand(2, 1, 6) < 0.5
    index = torch.vmap(sk.anchor_index)(marks)
    assert torch.equal(index.slots.flatten(0, 1), sk.anchor_index(marks.flatten(0, 1)).slots)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_opcheck_with_gradients(backend: str) -> None:
    ops = defined_ops()
    states = [torch.randn(1, 4, 6, requires_grad=True), torch.randn(1, 4, 6)]
    opcheck(ops["gather_hidden"], backend, states, torch.tensor([[2, -1]], dtype=torch.int32))
    opcheck(ops["topk_logprobs"], backend, torch.randn(3, 11, requires_grad=True), 4)
    outs = list(torch.randn(2, 1, 2, 3, 8, requires_grad=True).unbind())
    lses = list(torch.randn(2, 1, 2, 3, requires_grad=True).unbind())
    opcheck(ops["merge_attention"], backend, outs, lses)
    query = torch.randn(1, 4, 9, 8)
    arguments = (query, KEY, VALUE, query, query[..., 0], ANCHORS, 2, 0.3, query, KEY, VALUE)
    opcheck(ops["anchored_window_attention_jvp"], backend, *arguments)


def test_a_write_is_seen_by_a_backward_that_saved_the_cache() -> None:
    query, slots = torch.randn(1, 2, 5, 8, requires_grad=True), cache()
    row = torch.randn(1, 2, 1, 8)
    for write in (
        lambda: sk.append_cache_(row, row, slots, cache(), int32(3)),
        lambda: sk.compact_cache_(
            [slots], [cache()], ACCEPTED.path, ACCEPTED.accept_length, int32(3)
        ),
    ):
        scores = query @ slots.mT
        with torch.no_grad():
            write()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            scores.sum().backward()
