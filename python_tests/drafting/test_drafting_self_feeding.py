"""The rows a draft is trained on are the rows it computes while decoding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sparrow_kernels.drafting.network import DraftNetwork, LayerShape
from sparrow_kernels.drafting.rotary import rotary_table, rotate
from sparrow_kernels.drafting.self_feeding import self_fed_outputs
from sparrow_kernels.testing import assert_close

THETA, VOCAB = 1e4, 37


def make_network(heads: int = 4, kv_heads: int = 2, dtype: torch.dtype = torch.float64):
    """A network with random weights, and a random embedding for it."""
    torch.manual_seed(heads * 10 + kv_heads)
    network = DraftNetwork(LayerShape(heads * 8, 48, heads, kv_heads, head_dim=8)).to(dtype)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return network, nn.Embedding(VOCAB, heads * 8).to(dtype)


def attend_by_hand(query: Tensor, keys: list[Tensor], values: list[Tensor], groups: int) -> Tensor:
    """One query row `[Hq, D]` over lists of `[Hkv, D]` keys and values, in loops."""
    out = torch.zeros_like(query)
    for head in range(query.shape[0]):
        scores = [float(query[head] @ key[head // groups]) for key in keys]
        scores = [score / math.sqrt(query.shape[1]) for score in scores]
        best = max(scores)
        masses = [math.exp(score - best) for score in scores]
        for mass, value in zip(masses, values, strict=True):
            out[head] += mass / sum(masses) * value[head // groups]
    return out


def chain_by_hand(
    network: DraftNetwork, embeddings: Tensor, hidden: Tensor, root: int, passes: int
) -> list[Tensor]:
    """Rows 0 … root committed, then `passes - 1` nodes of a chain, one at a time: their outputs."""
    cos, sin = rotary_table(len(embeddings), 8, THETA, hidden.device, hidden.dtype)
    groups = network.shape.heads // network.shape.kv_heads
    keys: list[Tensor] = []
    values: list[Tensor] = []
    outputs: list[Tensor] = []
    for position in range(min(root + passes, len(embeddings))):
        previous = hidden[position] if position <= root else outputs[-1]
        row = network.rows(embeddings[position], previous)[None, None]
        query, key, value = network.query_key_value(row)
        keys.append(rotate(key, cos[position], sin[position])[0, :, 0])
        values.append(value[0, :, 0])
        query = rotate(query, cos[position], sin[position])[0, :, 0]
        attended = attend_by_hand(query, keys, values, groups)
        outputs.append(network.finish(row, attended[None, :, None])[0, 0])
    return outputs[root:]


@pytest.mark.parametrize(
    ("heads", "kv_heads", "passes"),
    [(4, 2, 5), (4, 4, 3), (2, 1, 2), (3, 1, 1)],
    ids=["groups of two", "no groups", "one kv head", "one pass"],
)
@torch.no_grad()
def test_every_pass_is_a_chain_of_decoding(heads: int, kv_heads: int, passes: int) -> None:
    """Pass j at row root + j - 1 is the chain's node at depth j - 1, for every root."""
    network, embedding = make_network(heads, kv_heads)
    tokens = torch.randint(VOCAB, (1, 9))
    embeddings, hidden = embedding(tokens), torch.randn(1, 9, heads * 8, dtype=torch.float64)
    outputs = self_fed_outputs(network, embeddings, hidden, passes, THETA)
    assert len(outputs) == passes
    for root in range(9):
        chain = chain_by_hand(network, embeddings[0], hidden[0], root, passes)
        for depth, expected in enumerate(chain):
            torch.testing.assert_close(
                outputs[depth][0, root + depth], expected, rtol=1e-9, atol=1e-9
            )


@pytest.mark.parametrize("prompt", [1, 6])
@torch.no_grad()
def test_training_rows_are_the_rows_of_draft_state(prompt: int) -> None:
    """Prefill, a grown chain, a refresh and another chain give the outputs of training."""
    pytest.importorskip("sparrow_kernels.ops.attention")
    from sparrow_kernels.decoding import first_committed
    from sparrow_kernels.drafting.head import DraftHead
    from sparrow_kernels.drafting.rows import PromptRows
    from sparrow_kernels.drafting.state import DraftState
    from sparrow_kernels.ops.types import Acceptance

    passes, accepted = 5, 2
    network, embedding = make_network(dtype=torch.float32)
    exact, exact_embedding = make_network(dtype=torch.float64)
    tokens = torch.randint(VOCAB, (1, 14))
    hidden = torch.randn(1, 14, 32)
    rounded = self_fed_outputs(network, embedding(tokens), hidden, passes, THETA)
    exact.load_state_dict(network.state_dict())
    exact_embedding.load_state_dict(embedding.state_dict())
    outputs = self_fed_outputs(exact, exact_embedding(tokens), hidden.double(), passes, THETA)

    head = DraftHead(nn.Identity(), banned=torch.tensor([0]))
    places = torch.arange(prompt - 1)
    before_root = PromptRows(tokens[0, places], hidden[0, places], places, prompt - 1)
    state = DraftState(
        network, embedding, head, THETA, [before_root], 16, tree_slots=passes, max_path=passes
    )

    def check_chain(root: int, output: Tensor) -> None:
        assert_close(output, outputs[0][:, root], rounded[0][:, root], name=f"root {root}")
        for depth in range(1, passes):
            ancestors = torch.tensor([[[(1 << depth) - 1]]])
            row = root + depth
            output = state.grow(tokens[:, row, None], output[:, None], depth, depth - 1, ancestors)
            output = output[:, 0]
            assert_close(
                output, outputs[depth][:, row], rounded[depth][:, row], name=f"depth {depth}"
            )

    root = prompt - 1
    first = first_committed(tokens[:, root], hidden[:, root], max_path=passes)
    check_chain(root, state.refresh(*first))
    emitted = tokens[:, prompt : prompt + passes].clone()
    emitted[:, accepted + 1 :] = -1
    acceptance = Acceptance(
        torch.arange(passes)[None].int(), torch.tensor([accepted], dtype=torch.int32), emitted
    )
    path_hidden = hidden[:, prompt : prompt + passes].clone()
    path_hidden[:, accepted + 1 :] = 0
    check_chain(root + accepted + 1, state.refresh(acceptance, path_hidden))


@torch.no_grad()
def test_padding_on_the_right_changes_nothing() -> None:
    network, embedding = make_network()
    tokens = torch.randint(VOCAB, (2, 10))
    hidden = torch.randn(2, 10, 32, dtype=torch.float64)
    whole = self_fed_outputs(network, embedding(tokens), hidden, 4, THETA)
    hidden[:, 6:], tokens[:, 6:] = 1e3, 0
    cut = self_fed_outputs(network, embedding(tokens), hidden, 4, THETA)
    for a, b in zip(whole, cut, strict=True):
        assert torch.equal(a[:, :6], b[:, :6])


def test_gradients_reach_through_every_pass() -> None:
    """The last pass's output is differentiable in the target's states of rows it never reads."""
    network, embedding = make_network()
    embeddings = embedding(torch.randint(VOCAB, (1, 6))).detach()
    hidden = torch.randn(1, 6, 32, dtype=torch.float64, requires_grad=True)
    last = self_fed_outputs(network, embeddings, hidden, 3, THETA)[-1]
    assert bool(last.isfinite().all())
    last[0, 4].sum().backward()
    # Rows 0 … 2 are committed for the chain 2, 3, 4; states of rows 3 and 4 are not known yet.
    assert [bool((row != 0).any()) for row in hidden.grad[0]] == [True] * 3 + [False] * 3


@torch.no_grad()
def test_prompt_rows_are_seen_without_outputs() -> None:
    network, embedding = make_network()
    embeddings = embedding(torch.randint(VOCAB, (2, 9)))
    hidden = torch.randn(2, 9, 32, dtype=torch.float64)
    whole = self_fed_outputs(network, embeddings, hidden, 4, THETA)
    from_row = self_fed_outputs(network, embeddings, hidden, 4, THETA, first_row=3)
    for number, (a, b) in enumerate(zip(whole, from_row, strict=True)):
        torch.testing.assert_close(b[:, number:], a[:, 3 + number :], rtol=1e-10, atol=1e-10)


def test_bad_arguments_are_named() -> None:
    network, _ = make_network()
    rows = torch.randn(1, 3, 32, dtype=torch.float64)
    with pytest.raises(ValueError, match="passes must be at least 1, got 0"):
        self_fed_outputs(network, rows, rows, 0, THETA)
    with pytest.raises(ValueError, match="first_row must be 0 … 2, got 3"):
        self_fed_outputs(network, rows, rows, 1, THETA, first_row=3)
    with pytest.raises(ValueError, match=r"hidden must be \[B, R, state_width\]"):
        self_fed_outputs(network, rows, rows[:, :2], 1, THETA)
