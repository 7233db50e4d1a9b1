"""What the decoder promises beside the text: stats, memory, restoration, refusals, streaming."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from decoding_cases import prompt, random_pair

from sparrow_kernels.decoding import Step, TreeConfig
from sparrow_kernels.decoding import step as step_module
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.models import SparrowDecoder, sparrow_generate
from sparrow_kernels.models import generate as generate_module


def run(inputs: dict, tree: str = "6-5-1", **settings):
    target, draft, _ = random_pair()
    decoder = SparrowDecoder(target, draft, TreeConfig.parse(tree))
    return decoder.generate(**inputs, **{"max_new_tokens": 20, "do_sample": False, **settings})


def test_stats_add_up() -> None:
    inputs = prompt(random_pair()[2], [8])
    result = run(inputs)
    stats = result.stats
    new_tokens = result.sequences.shape[1] - inputs["input_ids"].shape[1]
    assert stats.new_tokens == new_tokens
    assert sum(stats.histogram) == stats.target_calls
    assert sum(k * count for k, count in enumerate(stats.histogram)) == new_tokens - 1
    assert stats.mean_emitted == (new_tokens - 1) / stats.target_calls
    assert all(seconds > 0 for seconds in stats.seconds.values())


def test_one_token_needs_no_target_call() -> None:
    stats = run(prompt(random_pair()[2], [8]), max_new_tokens=1).stats
    assert (stats.target_calls, stats.mean_emitted, stats.histogram) == (0, None, [])


class _Recorder:
    """A streamer that keeps what it is given."""

    def __init__(self) -> None:
        self.puts: list[list[int]] = []
        self.ended = 0

    def put(self, value: torch.Tensor) -> None:
        self.puts.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended += 1


def test_streamer_gets_prompt_then_every_token_once() -> None:
    recorder = _Recorder()
    result = run(prompt(random_pair()[2], [8]), streamer=recorder)
    assert sum(recorder.puts, []) == result.sequences[0].tolist()
    assert len(recorder.puts) == 2 + result.stats.target_calls
    assert recorder.ended == 1


def _spy(monkeypatch: pytest.MonkeyPatch) -> dict:
    """Keep the request and the draft state of a run."""
    seen: dict = {}
    real = generate_module.draft_state

    def spy(request, *arguments):
        seen["request"], seen["draft"] = request, real(request, *arguments)
        return seen["draft"]

    monkeypatch.setattr(generate_module, "draft_state", spy)
    return seen


def test_draft_does_not_know_the_length_of_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _spy(monkeypatch)
    shapes, rows = [], []
    for frames in (4, 64):
        result = run(prompt(random_pair()[2], [frames]), max_new_tokens=6, tree="2-1-1")
        shapes.append(tuple(seen["draft"].key_cache.shape))
        rows.append(int(seen["draft"].prefix_lens))
        assert result.stats.new_tokens == 6
    assert shapes[0] == shapes[1]
    assert rows[0] == rows[1]


def test_cache_is_the_size_of_the_longest_sequence_and_a_tree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = _spy(monkeypatch)
    inputs = prompt(random_pair()[2], [8])
    run(inputs, tree="25-5-8", max_new_tokens=20)
    needed = inputs["input_ids"].shape[1] + 20 + 25
    cache = seen["request"].target.cache
    assert all(needed <= key.shape[2] <= 1.05 * needed for key in cache.keys)


def test_committed_length_after_a_cut_is_that_of_plain_decoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = _spy(monkeypatch)
    for new_tokens in (2, 5, 9):
        result = run(prompt(random_pair()[2], [8]), tree="9-2-4", max_new_tokens=new_tokens)
        cache = seen["request"].target.cache
        assert int(cache.prefix_lens) == result.sequences.shape[1] - 1


def _everything_of(target: Any) -> dict[str, Any]:
    """What the modules of a model hold, and their configurations, as far as text can tell."""
    held = {f"{n}: {k}": repr(v) for n, m in target.named_modules() for k, v in vars(m).items()}
    held |= {f"{name}: hooks": len(m._forward_hooks) for name, m in target.named_modules()}
    return held | {
        "config": target.config.to_dict(),
        "text": vars(target.config.text_config).copy(),
    }


@pytest.mark.slow
@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_nothing_of_the_target_changes_during_a_call_or_after_it(
    error: type[BaseException] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, _, processor = random_pair()
    inputs = prompt(processor, [8])
    target.generate(**inputs, max_new_tokens=1)  # transformers leaves rope_deltas of its own
    target.model.rope_deltas = torch.tensor([[12345]])
    before = _everything_of(target)
    seen = []

    honest = Step.verify

    def spy(self):
        seen.append(_everything_of(target) == before)
        if error is not None:
            raise error("planted")
        return honest(self)

    monkeypatch.setattr(Step, "verify", spy)
    with pytest.raises(error, match="planted") if error else nullcontext():
        run(inputs)
    assert seen and all(seen)
    assert _everything_of(target) == before


def test_no_vocabulary_sized_logits_of_the_prompt() -> None:
    """The LM head never sees more rows than a tree has."""
    target, _, processor = random_pair()
    rows: list[int] = []
    hook = target.lm_head.register_forward_hook(
        lambda module, arguments, output: rows.append(arguments[0].numel() // 128)
    )
    try:
        run(prompt(processor, [64]), tree="9-2-4")
    finally:
        hook.remove()
    assert max(rows) == 9


def refused(match: str, error: type[Exception] = NotImplementedError, **settings) -> None:
    with pytest.raises(error, match=match):
        run(prompt(random_pair()[2], [8]), **settings)


def test_what_is_not_supported_is_refused_by_name() -> None:
    refused("num_beams must be 1, got 3", num_beams=3)
    refused("output_attentions must be off", output_attentions=True)


def test_a_draft_must_fit_its_target() -> None:
    target, draft, processor = random_pair()
    stranger = SparrowDraft.for_target(target, target_layers=5, vocab_size=77)
    with pytest.raises(ValueError, match="layers 5, target has 2; vocabulary 77"):
        SparrowDecoder(target, stranger)
    with pytest.raises(ValueError, match="draft must be a SparrowDraft, got None"):
        target.generate(**prompt(processor, [8]), custom_generate=partial(sparrow_generate))


def test_prompt_longer_than_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    target, _, _ = random_pair()
    monkeypatch.setattr(target.config.text_config, "max_position_embeddings", 16)
    refused("prompt must be shorter than the model's context of 16 tokens", error=ValueError)


def test_drafts_never_hold_placeholders_or_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    target, _, processor = random_pair()
    drafted: list[int] = []
    real = step_module.grow_tree

    def spy(*arguments):
        tree = real(*arguments)
        drafted.extend(tree.tokens[0, 1:].tolist())
        return tree

    monkeypatch.setattr(step_module, "grow_tree", spy)
    stop = 57
    run(prompt(processor, [8]), tree="30-4-8", eos_token_id=stop, max_new_tokens=12)
    assert drafted
    assert not {stop, target.config.video_token_id, target.config.image_token_id} & set(drafted)


def test_save_and_load(tmp_path) -> None:
    _, draft, _ = random_pair()
    draft.save_pretrained(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".safetensors"}
    again = SparrowDraft.from_pretrained(tmp_path)
    assert again.config.tree == draft.config.tree
    for name, value in draft.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
