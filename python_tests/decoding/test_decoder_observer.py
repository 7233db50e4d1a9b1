"""An observer of the decoder: what it is told of each step is what the step did."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")
pytest.importorskip("PIL")

from decoding_cases import prompt, random_pair
from family_cases import VOCABULARY as MODEL_VOCABULARY
from family_cases import draft_for, prompts, tiny, turns
from mimic_draft import mimic

from sparrow_kernels import SparrowDecoder, TreeConfig, sparrow_generate
from sparrow_kernels.decoding import Coins, StepTrace, grow_tree

VOCABULARY = 11


class TableDraft:
    """A draft that drafts from a row of `table`, that of the token before."""

    def __init__(self) -> None:
        self.table = torch.randn(VOCABULARY, VOCABULARY)

    def grow(self, tokens: Tensor, *_: object) -> Tensor:
        return tokens[..., None].float()

    def logits(self, hidden: Tensor) -> Tensor:
        return self.table[hidden[..., 0].long()]

    def best(self, hidden: Tensor, width: int) -> tuple[Tensor, Tensor]:
        return tuple(self.logits(hidden).log_softmax(-1).topk(width, dim=-1))  # type: ignore


def test_a_tree_keeps_the_drafts_log_probabilities_where_they_are_asked_for() -> None:
    draft, root = TableDraft(), torch.tensor([4, 7])
    log_probs = draft.table.log_softmax(-1)
    for written in ("9-3-3", "5-4-1", "1-1-1", "12-3-4:marginals", "3x2x1"):
        tree = TreeConfig.parse(written)
        coins = Coins(2, tree.total, root.device)
        arguments = (draft, tree, root, root[:, None].float(), torch.ones(2).int(), 1.0, coins)
        grown = grow_tree(*arguments, scored=True)  # type: ignore[arg-type]
        assert grown.log_probs is not None and grown.log_probs.shape == (2, tree.total)
        for request in range(2):
            chain = [int(root[request])]
            for _ in range(tree.depth):
                chain.append(int(log_probs[chain[-1]].argmax()))
            tokens, parents = grown.tokens[request], grown.layout.parent[request].tolist()
            depths = grown.layout.depth[request].tolist()
            scores = [0.0]
            for node in range(1, tree.total):
                above = int(tokens[parents[node]])
                given = chain[depths[node] - 1] if tree.marginals else above
                scores.append(scores[parents[node]] + float(log_probs[given, tokens[node]]))
            # A drawn tree's distribution has one millionth of the uniform one in it.
            torch.testing.assert_close(
                grown.log_probs[request], torch.tensor(scores), rtol=1e-4, atol=1e-4
            )
        assert grow_tree(*arguments).log_probs is None  # type: ignore[arg-type]


def test_each_step_of_each_request_is_told_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    name, settings = "qwen2_5_vl", {"max_new_tokens": 15, "do_sample": False}
    inputs = prompts(tiny(name).processor, turns(8, "What happens?"), turns("Why?"))
    plain = tiny(name).target.generate(**inputs, **settings)
    mimic(monkeypatch, plain, MODEL_VOCABULARY)
    decoder = SparrowDecoder(tiny(name).target, draft_for(name), "9-3-2", recorded=True)
    told: list[StepTrace] = []
    result = decoder.generate(**inputs, **settings, output_logits=True, observer=told.append)
    assert torch.equal(result.sequences, plain)
    assert any(step.accepted for step in told) and any(step.bonus is None for step in told)
    length = inputs["input_ids"].shape[1]
    log_probs = torch.stack(result.logits, dim=1).log_softmax(-1)
    for request, row in enumerate(result.stats.rows):
        steps = [step for step in told if step.request == request]
        assert [step.step for step in steps] == list(range(row.target_calls))
        text = result.sequences[request, length : length + row.new_tokens].tolist()
        assert text[1:] == [token for step in steps for token in step.emitted]
        given = [score for step in steps for score in step.emitted_log_probs]
        rows = log_probs[request, 1 : row.new_tokens]
        wanted = rows.gather(1, torch.tensor(text[1:])[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(given), wanted, rtol=1e-4, atol=1e-4)
        last, own = text[0], int((inputs["attention_mask"][request]).sum())
        for step in steps:
            assert step.tokens[0] == last and step.parent[0] == -1 and len(step.tokens) == 9
            assert [step.tokens[node] for node in step.accepted] == step.emitted[
                : len(step.path) - 1
            ]
            for node, above in zip(step.path[1:], step.path, strict=False):
                assert step.parent[node] == above and step.depth[node] == step.depth[above] + 1
            seen = [step.target_log_probs[node] for node in step.accepted]
            assert seen == pytest.approx(step.emitted_log_probs[: len(seen)], abs=1e-5)
            assert step.draft_log_probs is not None and step.own_draft_log_probs is not None
            assert max(step.draft_log_probs[1:]) <= 0 and max(step.own_draft_log_probs[1:]) <= 1e-6
            own += len(step.emitted)
            assert step.committed == own
            last = step.emitted[-1]
    for phase in ("draft", "verify", "commit"):  # both requests go through a step together
        of_steps = {id(step.seconds): step.seconds[phase] for step in told}
        assert sum(of_steps.values()) == pytest.approx(result.stats.seconds[phase])


def test_a_step_without_a_draft_and_numbers_without_mass() -> None:
    target, draft, processor = random_pair()
    told: list[StepTrace] = []
    decoder = SparrowDecoder(target, draft)
    inputs = prompt(processor, [4])
    decoder.generate_plainly(**inputs, max_new_tokens=4, do_sample=False, observer=told.append)
    assert [len(step.tokens) for step in told] == [1, 1, 1]
    assert all(step.own_draft_log_probs is None and step.path == [0] for step in told)
    told.clear()
    ours = {"draft": draft, "tree": "3-2-1", "observer": told.append}
    target.generate(
        **inputs, max_new_tokens=4, do_sample=False, custom_generate=sparrow_generate, **ours
    )
    assert told and all(len(step.tokens) == 3 for step in told)
    nothing = float("-inf")
    step = StepTrace(
        *(0, 0, [5, 6, 7, 8], [-1, 0, 1, 0], [0, 1, 2, 1], [0.0, nothing, nothing, -0.5]),
        *([0.0] * 4, [0, 3], [8], [-0.1], 9, 3, {}),
    )
    assert step.own_draft_log_probs == [0.0, nothing, nothing, -0.5]
    assert (step.accepted, step.bonus) == ([3], None)
