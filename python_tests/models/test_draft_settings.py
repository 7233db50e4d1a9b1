"""Settings of foreign drafts: how they are read, and what a caller may say of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from broken_drafts import FACTS, SIZES, changed, converted, refusal
from decoding_cases import random_pair
from draft_files import Sizes, draft_files, write
from safetensors.torch import load_file, save_file

from sparrow_kernels import load_draft
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.models.drafts.convert import inspected

LAYERS = SIZES.target_layers
USUAL = [2, LAYERS // 2, LAYERS - 3]
EAGLE, ANGELSLIM = "eagle_aux_hidden_state_layer_ids", "aux_hidden_states_layer_ids"


@cache
def tiny_target() -> Any:
    return random_pair(layers=6)[0]


def tiny_sizes() -> Sizes:
    """Of a draft for the tiny target."""
    text = tiny_target().config.get_text_config()
    return Sizes(text.hidden_size, 96, 4, 2, 32, text.vocab_size, 60, 6, rope_theta=1e6)


def ids_config(name: str, ids: list[int]) -> dict[str, Any]:
    """`ids` where a producer writes them."""
    if name == "eagle3":
        return {"eagle_config": {EAGLE: ids}}
    return {ANGELSLIM if name == "angelslim" else EAGLE: ids}


class TestLayerIds:
    @pytest.mark.parametrize(
        "name, written, read",
        [
            ("eagle3", USUAL, USUAL),
            ("eagle3", [1, 4, 6], [2, 5, 7]),
            ("eagle3", [*USUAL, LAYERS], USUAL),
            ("speculators", [3, 4, 9], [3, 4, 9]),
            ("speculators", [1, 4, 9], [1, 4, 9]),
            ("specforge", [1, 4, 6], [2, 5, 7]),
            ("angelslim", [3, 4, 8], [4, 5, 9]),
        ],
    )
    def test_are_counted_as_their_producer_does(
        self, tmp_path: Path, name: str, written: list[int], read: list[int]
    ) -> None:
        if len(written) > 3:
            read, written = read, [1, *(each - 1 for each in read[1:]), LAYERS - 1]
        draft = converted(tmp_path, changed(name, ids_config(name, written)))
        assert draft.config.layer_ids == read
        assert draft.spec["layer_ids"].source.startswith("config: ")

    def test_are_the_usual_ones_where_nothing_is_said(self, tmp_path: Path) -> None:
        draft = converted(tmp_path, changed("eagle3"))
        assert draft.config.layer_ids == USUAL
        assert draft.spec["layer_ids"].source == "default: 2, L // 2, L - 3"

    @pytest.mark.parametrize("strict", [True, False])
    def test_that_may_be_counted_either_way_are_asked_for(
        self, tmp_path: Path, strict: bool
    ) -> None:
        facts, files = (
            FACTS._replace(layers=36),
            changed("eagle3", ids_config("eagle3", [3, 17, 32])),
        )
        message = refusal(converted, tmp_path, files, facts, strict=strict)
        assert "layer_ids=(3, 17, 32) or layer_ids=(4, 18, 33)" in message
        for asked in ([3, 17, 32], (4, 18, 33)):
            draft = converted(tmp_path, files, facts, layer_ids=asked)
            assert draft.config.layer_ids == list(asked)
            assert draft.spec["layer_ids"].source == "caller"

    @pytest.mark.parametrize("asked", [[2, 5, LAYERS + 1], [-1, 5, 7], [2, 5], [2, 5, 7, 9], []])
    def test_that_cannot_be(self, tmp_path: Path, asked: list[int]) -> None:
        message = refusal(converted, tmp_path, changed(), layer_ids=asked)
        assert f"layer_ids must be 3 of 0 to {LAYERS}" in message
        if len(asked) == 3:
            files = changed("speculators", ids_config("speculators", asked))
            assert message == refusal(converted, tmp_path, files)

    def test_of_a_state_more_than_the_usual(self, tmp_path: Path) -> None:
        wide = torch.randn(SIZES.hidden, 4 * SIZES.hidden)
        files = changed(tensors={"fc.weight": wide})
        assert "must say which 4 states" in refusal(converted, tmp_path, files)
        assert (
            converted(tmp_path, files, layer_ids=[0, 2, 5, LAYERS]).config.layer_ids[-1] == LAYERS
        )

    def test_are_none_of_a_draft_that_reads_the_top_state(self, tmp_path: Path) -> None:
        message = refusal(converted, tmp_path, changed("eagle2"), layer_ids=[1, 2, 3])
        assert "layer_ids must be left out" in message


class TestRotaryBase:
    @pytest.mark.parametrize(
        "name, config, base, source",
        [
            ("speculators", {}, SIZES.rope_theta, "config"),
            (
                "specforge",
                {"rope_theta": None, "rope_parameters": {"rope_theta": 7e5}},
                7e5,
                "config",
            ),
            ("specforge", {"rope_theta": None}, 1e4, "default"),
        ],
    )
    def test_is_read(
        self, tmp_path: Path, name: str, config: dict[str, Any], base: float, source: str
    ) -> None:
        spec = converted(tmp_path, changed(name, config)).spec
        assert (spec["rope_theta"].value, spec["rope_theta"].source) == (base, source)

    def test_is_as_the_caller_says(self, tmp_path: Path) -> None:
        spec = converted(tmp_path, changed(), rope_theta=5e6).spec
        assert (spec["rope_theta"].value, spec["rope_theta"].source) == (5e6, "caller")

    @pytest.mark.parametrize("asked", [0, -1.0, float("nan"), float("inf")])
    def test_is_above_0(self, tmp_path: Path, asked: float) -> None:
        message = refusal(converted, tmp_path, changed(), rope_theta=asked)
        assert f"rope_theta must be a number above 0, got {asked}" in message


class TestVocabulary:
    @pytest.mark.parametrize("name", ["eagle2", "specforge", "eagle3_1"])
    def test_an_embedding_of_its_own_is_kept_and_a_copy_is_not(
        self, tmp_path: Path, name: str
    ) -> None:
        table = FACTS.embedding
        for weight, own in ((table, False), (table.bfloat16(), False), (table + 1, True)):
            draft = converted(tmp_path, changed(name, tensors={"embed_tokens.weight": weight}))
            assert draft.config.own_embedding is own
            kept = draft.state_dict().get("network.embedding.weight")
            assert torch.equal(kept, weight) if own else kept is None

    def test_a_head_of_its_own_is_kept_and_a_copy_is_not(self, tmp_path: Path) -> None:
        for weight, own in ((FACTS.lm_head, False), (FACTS.lm_head + 1, True)):
            draft = converted(tmp_path, changed("eagle2", tensors={"lm_head.weight": weight}))
            kept = draft.state_dict().get("network.head.weight")
            assert torch.equal(kept, weight) if own else kept is None
            assert draft.config.draft_vocab_size == (SIZES.vocab if own else None)

    def test_a_narrow_draft_is_inspected_without_its_target(self, tmp_path: Path) -> None:
        table = torch.randn(SIZES.vocab, SIZES.hidden)
        wide = torch.randn(SIZES.hidden, 3 * 80)
        files = changed(
            "speculators",
            {"target_hidden_size": 80},
            {"embed_tokens.weight": table, "fc.weight": wide},
        )
        asked = {"layer_ids": None, "rope_theta": None, "strict": True, "settings": {}}
        spec = inspected(write(files, tmp_path), None, **asked)
        assert spec["own_embedding"].value is True
        assert (spec["target_hidden_size"].value, spec["hidden_size"].value) == (80, SIZES.hidden)


class TestCaller:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return write(draft_files("specforge", tiny_sizes()), tmp_path / "theirs")

    @pytest.fixture
    def ours(self, tmp_path: Path) -> Path:
        SparrowDraft.for_target(tiny_target()).save_pretrained(tmp_path / "ours")
        return tmp_path / "ours"

    @pytest.mark.parametrize(
        "asked, said",
        [
            ({"positions": "absolute"}, "positions must be one of compact, sequence, mrope, got"),
            ({"sees_clip": "everything"}, "sees_clip must be one of nothing, states,"),
            ({"sees_clip": "adaptor"}, "got 'adaptor' for a draft without one"),
            ({"sees_clip": "middle"}, "must be nothing, states or placeholders"),
            (
                {"settings": {"normed": True}},
                "settings must be of norm_before_residual, feeds_normed",
            ),
        ],
    )
    def test_is_refused(self, folder: Path, asked: dict[str, Any], said: str) -> None:
        assert said in refusal(load_draft, folder, tiny_target(), probe=False, **asked)

    def test_is_believed(self, folder: Path) -> None:
        settings = {"feeds_normed": True, "norm_before_residual": True}
        plain = load_draft(folder, tiny_target(), probe=False)
        asked = {"positions": "mrope", "sees_clip": "trained", "settings": settings}
        draft = load_draft(folder, tiny_target(), probe=False, **asked)
        assert (draft.config.positions, draft.config.sees_clip) == ("mrope", "placeholders")
        for name in ("positions", "sees_clip", *settings):
            assert draft.spec[name].source == "caller" != plain.spec[name].source
        assert draft.config.feeds_normed and draft.config.norm_before_residual

    def test_cannot_have_what_was_normed_without_a_norm(self, tmp_path: Path) -> None:
        message = refusal(converted, tmp_path, changed("eagle2"), settings={"feeds_normed": True})
        assert "feeds_normed must be left out" in message

    @pytest.mark.parametrize(
        "asked", [{"layer_ids": [1, 2, 3]}, {"settings": {"feeds_normed": True}}]
    )
    def test_says_nothing_of_our_own_format(self, ours: Path, asked: dict[str, Any]) -> None:
        message = refusal(load_draft, ours, tiny_target(), **asked)
        assert "must be left out" in message and "our own format" in message
        assert load_draft(ours, tiny_target(), rope_theta=7e5).config.rope_theta == 7e5
        assert "rope_theta must be" in refusal(load_draft, ours, tiny_target(), rope_theta=0)

    def test_half_of_our_own_format_is_not_loaded(self, ours: Path) -> None:
        file = ours / "model.safetensors"
        whole = load_file(file)
        lacking = {key: value for key, value in whole.items() if key != "network.out.weight"}
        narrow = {**whole, "network.out.weight": whole["network.out.weight"][:, :8].contiguous()}
        for weights in (lacking, narrow):
            save_file(weights, file, metadata={"format": "pt"})
            message = refusal(load_draft, ours, tiny_target())
            assert "must have network.out.weight" in message
        save_file({**whole, "more": torch.ones(2)}, file, metadata={"format": "pt"})
        assert "not understood, got more" in refusal(load_draft, ours, tiny_target())
        with pytest.warns(UserWarning, match="not understood, got more"):
            load_draft(ours, tiny_target(), strict=False)
