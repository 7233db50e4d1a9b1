"""Steps as graphs: same text, nothing read on the host, captured again where buffers have moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import graph_stand_in
import pytest
import torch
from family_cases import VOCABULARY, draft_for, prompts, tiny, turns
from mimic_draft import mimic

from sparrow_kernels.decoding import StepTrace
from sparrow_kernels.decoding import graphs as graphs_module
from sparrow_kernels.models import SparrowDecoder
from sparrow_kernels.models import room as room_module

NAME = "qwen2_5_vl"
CHATS = [turns(8, "What happens?"), turns("Why?"), turns(None, "And here, in this one?")]
SETTINGS = {"max_new_tokens": 24, "do_sample": False}


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[graph_stand_in.RecordedGraph]:
    """Graphs are stood in for; those that were captured."""
    made: list[graph_stand_in.RecordedGraph] = []

    def capture(part: Callable[[], None]) -> graph_stand_in.RecordedGraph:
        made.append(graph_stand_in.capture(part))
        return made[-1]

    honest = graphs_module.GraphedStep.__init__

    def init(self: Any, step: Any, eager: tuple[str, ...] = ()) -> None:
        honest(self, step, eager, capture)

    monkeypatch.setattr(graphs_module.GraphedStep, "__init__", init)
    return made


def decoder(tree: str = "9-2-4", **settings: Any) -> SparrowDecoder:
    return SparrowDecoder(tiny(NAME).target, draft_for(NAME), tree, **settings)


def inputs(*chats: list[Any]) -> dict[str, Any]:
    return prompts(tiny(NAME).processor, *chats)


@pytest.mark.slow
@pytest.mark.parametrize("tree", ["1-1-1", "9-2-4", "30-4-8", "4x2x1", "64-5-8:marginals"])
@pytest.mark.parametrize("batch", [1, 3])
def test_replayed_steps_keep_the_text(
    captured: list[Any], tree: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SETTINGS, "eos_token_id": 319}
    plain = tiny(NAME).target.generate(**inputs(*CHATS[:batch]), **settings)
    mimic(monkeypatch, plain, VOCABULARY)
    runs = []
    for graphs in (False, True):
        torch.manual_seed(1)
        runs.append(decoder(tree, cuda_graph=graphs).generate(**inputs(*CHATS[:batch]), **settings))
    eager, replayed = runs
    assert torch.equal(eager.sequences, plain)
    assert torch.equal(replayed.sequences, plain)
    assert eager.stats.histogram == replayed.stats.histogram
    assert len(captured) == 3
    assert all(graph.replays > 2 for graph in captured)
    if tree != "1-1-1":
        histogram = replayed.stats.rows[-1].histogram
        assert len([count for count in histogram if count]) > 1, "a weak case"


@pytest.mark.parametrize("tree", ["9-2-4", "6-5-1", "16-4-4:marginals"])
def test_an_observer_is_told_the_same_of_replayed_steps(
    captured: list[Any], tree: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tiny(NAME).target.generate(**inputs(*CHATS[:2]), **SETTINGS)
    mimic(monkeypatch, plain, VOCABULARY)
    told: list[list[StepTrace]] = []
    for graphs in (False, True):
        ours = decoder(tree, cuda_graph=graphs)
        ours.generate(**inputs(*CHATS[:2]), **SETTINGS)  # without an observer, and its graphs
        told.append([])
        ours.generate(**inputs(*CHATS[:2]), **SETTINGS, observer=told[-1].append)
    assert len(captured) == 6 and len(told[0]) == len(told[1]) > 4
    floats = ("draft_log_probs", "target_log_probs", "emitted_log_probs")
    for eager, replayed in zip(*told, strict=True):
        for name, value in vars(eager).items():
            if name in floats:
                assert getattr(replayed, name) == pytest.approx(value, abs=1e-5), name
            elif name != "seconds":
                assert getattr(replayed, name) == value, name


def test_a_second_call_captures_nothing(captured: list[Any]) -> None:
    ours = decoder(cuda_graph=True)
    first = ours.generate(**inputs(*CHATS[:2]), **SETTINGS)
    longer = [turns(10, "What happens, and when?"), CHATS[2]]
    other = ours.generate(**inputs(*longer), **SETTINGS)
    assert len(captured) == 6, "longer prompts move the buffers"
    count = len(captured)
    fresh = decoder(cuda_graph=False).generate(**inputs(*longer), **SETTINGS)
    assert torch.equal(other.sequences, fresh.sequences)
    again = ours.generate(**inputs(*CHATS[:2]), **SETTINGS)
    assert torch.equal(first.sequences, again.sequences)
    assert len(captured) == count


@pytest.mark.parametrize(
    "changed",
    [
        {"eos_token_id": 77},
        {"do_sample": True, "temperature": 0.8},
        {"do_sample": True, "temperature": 0.8, "top_p": 0.5},
    ],
    ids=["stop ids", "sampling", "top-p"],
)
def test_what_a_graph_depends_on_captures_again(
    captured: list[Any], changed: dict[str, Any]
) -> None:
    ours = decoder(cuda_graph=True)
    ours.generate(**inputs(CHATS[0]), **SETTINGS)
    count = len(captured)
    torch.manual_seed(3)
    got = ours.generate(**inputs(CHATS[0]), **{**SETTINGS, **changed})
    assert len(captured) == count + 3
    torch.manual_seed(3)
    wanted = decoder(cuda_graph=False).generate(**inputs(CHATS[0]), **{**SETTINGS, **changed})
    assert torch.equal(got.sequences, wanted.sequences)


def test_processors_that_read_the_ids_are_called_on_the_host(captured: list[Any]) -> None:
    settings = {**SETTINGS, "repetition_penalty": 1.4}
    wanted = decoder(cuda_graph=False).generate(**inputs(CHATS[0]), **settings)
    ours = decoder(cuda_graph=True)
    for _ in range(2):
        assert torch.equal(
            ours.generate(**inputs(CHATS[0]), **settings).sequences, wanted.sequences
        )
    assert len(captured) == 4, "draft and verify of each call; the commit looks at the host"


def test_generators_of_the_callers_draw_outside(captured: list[Any]) -> None:
    settings = {**SETTINGS, "do_sample": True, "temperature": 1.5}
    texts = []
    for graphs in (False, True):
        for tree in ("9-2-4", "4x2x1"):
            generator = torch.Generator().manual_seed(5)
            made = decoder(tree, cuda_graph=graphs)
            texts.append(made.generate(**inputs(CHATS[0]), **settings, generator=generator))
    assert torch.equal(texts[0].sequences, texts[2].sequences)
    assert torch.equal(texts[1].sequences, texts[3].sequences)


@pytest.mark.slow
def test_buffers_that_move_are_captured_again(
    captured: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_module, "_FIRST_NEW_TOKENS", 1)
    settings = {**SETTINGS, "max_new_tokens": 150, "eos_token_id": 319}
    got = decoder(cuda_graph=True).generate(**inputs(CHATS[1]), **settings)
    assert len(captured) > 3
    wanted = decoder(cuda_graph=False).generate(**inputs(CHATS[1]), **settings)
    assert torch.equal(got.sequences, wanted.sequences)


def test_another_dtype_or_weights_elsewhere_begin_anew(captured: list[Any]) -> None:
    import copy

    target = copy.deepcopy(tiny(NAME).target)
    ours = SparrowDecoder(target, draft_for(NAME), "9-2-4", cuda_graph=True)
    ours.generate(**inputs(CHATS[0]), **SETTINGS)
    for parameter in target.parameters():
        parameter.data = parameter.data * 1.5
    got = ours.generate(**inputs(CHATS[0]), **SETTINGS).sequences
    assert torch.equal(got, target.generate(**inputs(CHATS[0]), **SETTINGS))


@pytest.mark.parametrize("part", ["draft", "verify", "commit"])
def test_a_part_that_cannot_be_captured_runs_as_it_is(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def capture(captured: Callable[[], None]) -> graph_stand_in.RecordedGraph:
        name = captured.__name__
        if name == part:
            raise RuntimeError("operation not permitted when stream is capturing")
        made.append(name)
        return graph_stand_in.capture(captured)

    honest = graphs_module.GraphedStep.__init__
    monkeypatch.setattr(
        graphs_module.GraphedStep,
        "__init__",
        lambda self, step, eager=(): honest(self, step, eager, capture),
    )
    wanted = decoder(cuda_graph=False).generate(**inputs(*CHATS[:2]), **SETTINGS)
    ours = decoder(cuda_graph=True)
    with pytest.warns(UserWarning, match=f"the {part} of a step cannot be a CUDA graph"):
        got = ours.generate(**inputs(*CHATS[:2]), **SETTINGS)
    assert torch.equal(got.sequences, wanted.sequences)
    assert got.stats.histogram == wanted.stats.histogram
    assert sorted(made) == sorted({"draft", "verify", "commit"} - {part})
