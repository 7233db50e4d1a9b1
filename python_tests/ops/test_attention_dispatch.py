"""tree_attention as a PyTorch operator, and what it allocates."""

import pytest
import torch
from attention_oracle import CPU_BACKENDS, Case, tree_bits
from dispatch import compiles_once, opcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import tree_attention
from sparrow_kernels.ops.attention.ops import TREE_ATTENTION, TREE_ATTENTION_OUT
from sparrow_kernels.ops.attention.seen import tree_part
from sparrow_kernels.ops.tree import build_tree

BUSHY = [-1, 0, 0, 1, 1, 2, 3, 3, 4, 6, 9]
DEPTH = [0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 5]
PLAIN = Case([tree_bits(BUSHY)] * 2, [33, 5], starts=[0, 2])
ANCHORED = Case([tree_bits(BUSHY)], [40], anchors=[{1, 2, 30}], window=6, depth=[DEPTH])
DECODE = Case([[1]], [33])


def op_arguments(case: Case) -> list:
    index = case.index()
    options = case.options()
    return [
        *case.arguments(),
        options["prefix_starts"],
        *((None, None, None) if index is None else index),
        options["window"],
        options["depth"],
        0.25,
        None,
    ]


@pytest.mark.slow
@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("case", [PLAIN, ANCHORED, DECODE], ids=["plain", "anchored", "decode"])
def test_opcheck(case, backend):
    opcheck(TREE_ATTENTION, backend, *op_arguments(case))
    out, lse = torch.empty_like(case.query), torch.empty(case.query.shape[:3])
    opcheck(TREE_ATTENTION_OUT, backend, *op_arguments(case), out, lse)
    opcheck(TREE_ATTENTION_OUT, backend, *op_arguments(case), out, None)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_one_graph_for_every_tree_and_length(backend):
    def calls(size, length, num_splits):
        def make():
            case = Case([tree_bits(BUSHY[:size])], [length])
            return (*case.arguments(), num_splits)

        return make

    def attend(query, key, value, ancestors, prefix_lens, num_splits):
        return tree_attention(
            query, key, value, ancestors, prefix_lens, return_lse=True, num_splits=num_splits
        )

    with env.backend(backend):
        compiles_once(attend, [calls(5, 20, 3), calls(7, 0, 6), calls(11, 33, 5)])


def test_one_graph_with_a_window_and_out():
    def calls(window, length):
        def make():
            case = Case(
                [tree_bits(BUSHY)], [length], anchors=[{1, 2, 30}], window=window, depth=[DEPTH]
            )
            options = case.options()
            return (
                case.arguments(),
                tuple(options["anchors"]),
                window,
                options["depth"],
                torch.empty_like(case.query),
            )

        return make

    def attend(arguments, anchors, window, depth, out):
        index = type(ANCHORED.index())(*anchors)
        return tree_attention(*arguments, anchors=index, window=window, depth=depth, out=out)

    compiles_once(attend, [calls(6, 40), calls(9, 30)])


def test_the_backend_is_chosen_when_a_compiled_call_runs():
    torch._dynamo.reset()
    compiled = torch.compile(tree_attention, fullgraph=True, backend="aot_eager")
    arguments = PLAIN.arguments()
    compiled(*arguments)
    with env.backend("reference"):
        assert torch.equal(compiled(*arguments), tree_attention(*arguments))


class LargestTensor(TorchDispatchMode):
    """The largest storage that any PyTorch operator made, in elements."""

    def __init__(self, *given: torch.Tensor) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in given}
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.known:
                    self.largest = max(self.largest, storage.nbytes() // tensor.itemsize)
        return result


@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_nothing_as_large_as_prefix_times_nodes(backend, anchored):
    length, options = 32_000, {}
    if anchored:
        options = {"anchors": [set(range(0, length, 100))], "window": 500, "depth": [DEPTH]}
    case = Case([tree_bits(BUSHY)], [length], capacity=length + 16, **options)
    arguments = op_arguments(case)
    function = TREE_ATTENTION.implementations[backend].function
    with LargestTensor(*(a for a in arguments if isinstance(a, torch.Tensor))) as seen:
        function(*arguments)
    # The reference makes a block's scores and a bit a slot; no more than 2 elements a slot.
    assert 0 < seen.largest <= 2 * length, seen.largest
    if backend == "torch":
        rows_seen = 320 + 500 + len(BUSHY)
        assert seen.largest <= rows_seen * case.kv_heads * case.head_dim


def test_a_tree_is_read_once_for_all_layers():
    case = Case([tree_bits(BUSHY)], [33])
    tree_part.cache_clear()
    with env.backend("torch"):
        for _ in range(5):
            tree_attention(*case.arguments())
    assert tree_part.cache_info().misses == 1


def test_the_remembered_tree_follows_its_words():
    """The memory is by value: a tensor of words changed in place is another tree."""
    case = Case([tree_bits(BUSHY)], [33])
    query, key, value, ancestors, lens = case.arguments()
    with env.backend("torch"):
        tree_attention(query, key, value, ancestors, lens)
        ancestors[0, 4, 0] = 1
        case.rows[0][4] = 1
        case.check(tree_attention(query, key, value, ancestors, lens, return_lse=True))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_rows_that_see_tree_slots_have_words_enough(backend):
    """A tree of 70 whose words were cut to one: its last nodes would not see themselves."""
    query, key, value = torch.randn(1, 2, 70, 8), *torch.randn(2, 1, 2, 100, 8)
    chain = build_tree(torch.arange(-1, 69, dtype=torch.int32)[None]).ancestors
    lens = torch.tensor([5], dtype=torch.int32)
    message = r"ancestors must be \[B, T, W\] with W = 2 or more words for T = 70, got W = 1"
    with env.backend(backend), env.checks(True):
        for out in (None, torch.zeros_like(query)):
            with pytest.raises(ValueError, match=message):
                tree_attention(query, key, value, chain[..., :1], lens, out=out)
        # Of the prefix alone, any number of rows sees as much as ever.
        nothing = tree_attention(query, key, value, chain[..., :1] * 0, lens)
        assert torch.equal(nothing, tree_attention(query, key, value, chain * 0, lens))
