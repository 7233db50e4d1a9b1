"""Trees of one distribution a depth: the best combinations, ties too, and the same text."""

from __future__ import annotations

import heapq
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from decoding_cases import prompt, random_pair
from family_cases import VOCABULARY, draft_for, prompts, tiny, turns
from mimic_draft import mimic
from torch import Tensor

from sparrow_kernels.decoding import Coins, TreeConfig, grow_tree
from sparrow_kernels.decoding.marginals import best_combinations
from sparrow_kernels.models import SparrowDecoder

CHATS = [turns(8, "What happens?"), turns("Why?"), turns(None, "And here, in this one?")]
SIZES = [(1, 1, 1), (2, 3, 4), (6, 5, 1), (31, 4, 2), (16, 1, 64), (40, 3, 3), (64, 8, 16)]
SIZES += [(200, 2, 255), (256, 8, 16), (256, 16, 255)]

Ranks = tuple[int, ...]
"""A node as the ranks on its path, the first depth's first."""


def oracle(log_probs: np.ndarray, total: int) -> list[Ranks]:
    """The best `total - 1` of all combinations of `[depth, width]` float32, best first, by the
    definition: a node enters the queue when its parent or the sibling before it has left it."""
    depth, width = log_probs.shape

    def keyed(above: Any, score: np.float32, ranks: Ranks) -> Any:
        """Best first; ties to the lower depth, to the better parent, to the lower rank."""
        own = score + log_probs[len(ranks) - 1, ranks[-1]]
        return (-own, len(ranks), above, ranks[-1]), above, score, own, ranks

    queue, found = [keyed((), np.float32(0), (0,))], []
    while len(found) < total - 1:
        key, above, score, own, ranks = heapq.heappop(queue)
        found.append(ranks)
        if ranks[-1] + 1 < width:
            heapq.heappush(queue, keyed(above, score, (*ranks[:-1], ranks[-1] + 1)))
        if len(ranks) < depth:
            heapq.heappush(queue, keyed(key, own, (*ranks, 0)))
    return found


def distributions(kind: str, batch: int, depth: int, width: int, seed: int) -> Tensor:
    """`[B, depth, width]` float32, descending."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((batch, depth, width + 5), generator=generator) * 3
    if kind == "ties":  # eighths, so that sums tie too
        logits = (torch.randn((batch, depth, width + 5), generator=generator) * 8).round() / 8
        return (logits - logits.amax(-1, keepdim=True)).sort(descending=True).values[..., :width]
    if kind == "equal":
        return logits.new_full((batch, depth, width), -0.5)
    if kind == "certain":  # a child that ties with its parent
        return logits.new_full((batch, depth, width), -torch.inf).index_fill_(
            2, torch.tensor(0), 0.0
        )
    return logits.log_softmax(-1).sort(descending=True).values[..., :width].contiguous()


def ranked_nodes(tokens: Tensor, parents: Tensor, width: int) -> list[Ranks]:
    """A tree's nodes but the root, where a token is depth * width + rank."""
    assert int(parents[0]) == -1
    nodes: list[Ranks] = [()]
    for token, parent in zip(tokens.tolist(), parents[1:].tolist(), strict=True):
        above = nodes[parent]  # an IndexError is a parent that comes later
        assert token // width == len(above), "a token of another depth"
        nodes.append((*above, token % width))
    return nodes[1:]


@pytest.mark.parametrize("kind", ["random", "ties", "equal", "certain"])
@pytest.mark.parametrize("total, depth, width", SIZES)
def test_the_best_combinations_are_kept(kind: str, total: int, depth: int, width: int) -> None:
    TreeConfig(total, depth, width, marginals=True)
    batch = 3
    log_probs = distributions(kind, batch, depth, width, seed=total)
    tokens = torch.arange(depth * width).view(1, depth, width).expand(batch, -1, -1)
    drafted, parents = best_combinations(log_probs, tokens, total)
    assert (drafted.dtype, parents.dtype) == (torch.int64, torch.int32)
    for request in range(batch):
        nodes = ranked_nodes(drafted[request], parents[request], width)
        wanted = oracle(log_probs[request].numpy(), total)
        places = {ranks: place for place, ranks in enumerate(wanted)}
        # Level by level, the best of a level first.
        assert nodes == sorted(wanted, key=lambda ranks: (len(ranks), places[ranks]))


class _Marginals(NamedTuple):
    """A draft of one distribution a depth, that keeps how it was run."""

    log_probs: Tensor
    tokens: Tensor
    calls: list[tuple[Any, ...]]

    def best(self, hidden: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """The first number of an output is its depth less one."""
        depths = hidden[..., 0].long()
        requests = torch.arange(len(depths))
        found = self.log_probs[requests, depths], self.tokens[requests, depths]
        return found[0][:, :width], found[1][:, :width]

    def grow(self, tokens: Tensor, hidden: Tensor, *place: Any) -> Tensor:
        self.calls.append((tokens, hidden, *place))
        return hidden + 1


def test_the_draft_runs_one_row_a_level_along_its_greedy_chain() -> None:
    batch, tree = 2, TreeConfig(256, 70, 4, marginals=True)
    log_probs = distributions("random", batch, tree.depth, tree.width, seed=2)
    tokens = torch.arange(batch * 280).view(batch, tree.depth, tree.width)
    draft = _Marginals(log_probs, tokens, [])
    root = torch.tensor([5, 6])
    coins = Coins(batch, tree.total, root.device)
    active = torch.ones(batch, dtype=torch.int32)
    grow_tree(draft, tree, root, torch.zeros(batch, 3), active, 1.0, coins)  # type: ignore[arg-type]
    assert len(draft.calls) == tree.depth - 1 == tree.grown_slots
    for level, (token, hidden, depth, slot, ancestors) in enumerate(draft.calls, start=1):
        assert torch.equal(token, tokens[:, level - 1, :1])
        assert torch.equal(hidden, torch.full((batch, 1, 3), level - 1.0))
        assert (depth, slot) == (level, level - 1)
        words = enumerate(ancestors[1, 0].tolist())
        assert ancestors.shape == (batch, 1, 2)
        assert sum(word % 2**64 << 64 * place for place, word in words) == 2**level - 1


@pytest.mark.parametrize("size", [(64, 8, 16), (9, 1, 8), (9, 2, 64)])
def test_an_idle_request_is_padding_and_disturbs_nobody(size: tuple[int, int, int]) -> None:
    batch, tree = 3, TreeConfig(*size, marginals=True)
    log_probs = distributions("random", batch, tree.depth, tree.width, seed=4)
    log_probs[1] = -torch.inf  # what a finished request drafts is of no interest
    tokens = torch.arange(tree.depth * tree.width).view(1, tree.depth, -1).expand(batch, -1, -1)
    active = torch.tensor([1, 0, 1], dtype=torch.int32)
    root = torch.tensor([5, 0, 7])
    coins = Coins(batch, tree.total, root.device)
    draft: Any = _Marginals(log_probs, tokens, [])
    drafted = grow_tree(draft, tree, root, torch.zeros(batch, 1), active, 1.0, coins)
    assert drafted.draft_probs is None
    assert drafted.tokens[:, 0].tolist() == [5, 0, 7]
    assert (drafted.layout.depth[1] == -1).all() and (drafted.layout.parent[1] == -1).all()
    for request in (0, 2):
        parents = drafted.layout.parent[request]
        nodes = ranked_nodes(drafted.tokens[request, 1:], parents, tree.width)
        assert set(nodes) == set(oracle(log_probs[request].numpy(), tree.total))
        assert drafted.layout.depth[request].tolist() == [0, *map(len, nodes)]


@pytest.mark.parametrize("tree", ["9-2-4:marginals", "6-5-1:marginals", "64-8-16:marginals"])
def test_greedy_text_of_a_draft_that_is_wrong(tree: str) -> None:
    target, draft, processor = random_pair()
    inputs = prompt(processor, [8])
    plain = target.generate(**inputs, max_new_tokens=24, do_sample=False)
    decoder = SparrowDecoder(target, draft, tree)
    assert torch.equal(decoder.generate(**inputs, max_new_tokens=24).sequences, plain)


@pytest.mark.parametrize("tree", ["30-4-8:marginals", "256-8-16:marginals"])
def test_greedy_text_of_a_batch_whose_rows_end_apart(
    tree: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, processor = tiny("qwen2_5_vl")
    inputs = prompts(processor, *CHATS)
    settings: dict[str, Any] = {"max_new_tokens": 24, "do_sample": False}
    free = target.generate(**inputs, **settings, eos_token_id=319)
    mimic(monkeypatch, free, VOCABULARY)
    new = free[:, inputs["input_ids"].shape[1] :]
    settings["eos_token_id"] = [int(new[0, 6]), int(new[1, 11])]
    plain = target.generate(**inputs, **settings)
    result = SparrowDecoder(target, draft_for("qwen2_5_vl"), tree).generate(**inputs, **settings)
    assert torch.equal(result.sequences, plain)
    assert result.stats.tree == tree
    assert len(set(result.stats.new_tokens)) > 1, "a weak case: no row was ever idle"
    assert all(sum(row.histogram[2:]) for row in result.stats.rows), "a weak case"


def test_of_width_one_it_is_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    target, processor = tiny("qwen2_5_vl")
    inputs = prompts(processor, *CHATS)
    settings = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": 319}
    mimic(monkeypatch, target.generate(**inputs, **settings), VOCABULARY)
    chain, marginals = (
        SparrowDecoder(target, draft_for("qwen2_5_vl"), tree).generate(**inputs, **settings).stats
        for tree in ("6-5-1", "6-5-1:marginals")
    )
    assert marginals.histogram == chain.histogram
    assert chain.mean_emitted != [1.0] * 3, "a weak case"


def test_a_tree_of_marginals_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = TreeConfig.auto("16-4-4:marginals", TreeConfig(6, 5, 1))
    assert str(auto) == "auto(16-4-4:marginals, 6-5-1)"
    target, processor = tiny("Llama")
    inputs = prompts(processor, turns("Why?"))
    settings = {"max_new_tokens": 8, "do_sample": False}
    plain = target.generate(**inputs, **settings)
    decoder = SparrowDecoder(target, draft_for("Llama"), auto)
    runs = [decoder.generate(**inputs, **settings) for _ in range(5)]
    assert [run.stats.tree for run in runs[:4]] == ["16-4-4:marginals"] * 2 + ["6-5-1"] * 2
    assert all(torch.equal(run.sequences, plain) for run in runs)


@pytest.mark.slow
def test_sampled_text_repeats_with_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    target, processor = tiny("qwen2_5_vl")
    inputs = prompts(processor, *CHATS)
    settings: dict[str, Any] = {"max_new_tokens": 24, "eos_token_id": 319}
    mimic(monkeypatch, target.generate(**inputs, **settings, do_sample=False), VOCABULARY)
    wide = TreeConfig(256, 2, 128, marginals=True)  # it holds some of what is drawn
    decoder = SparrowDecoder(target, draft_for("qwen2_5_vl"), wide)
    runs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        runs.append(decoder.generate(**inputs, **settings, do_sample=True, temperature=1.0))
    assert torch.equal(runs[0].sequences, runs[1].sequences)
    assert not torch.equal(runs[0].sequences, runs[2].sequences)
    # What is accepted decides which coins are next: without any the tree would not matter.
    assert runs[0].stats.histogram == runs[1].stats.histogram
    assert any(sum(row.histogram[2:]) for row in runs[0].stats.rows), "a weak case"
