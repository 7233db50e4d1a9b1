"""A dialogue through a family's own processor: the tokens that count are the assistant's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dialogue_cases import clip, clip_dialogue, said, text_dialogue, write_clip, write_lines
from family_cases import FAMILIES, tiny
from tiny_parts import tokenizer as plain_tokenizer

from sparrow_kernels.drafting.rows import TEXT_ALONE
from sparrow_kernels.models.sequence import SequenceReader
from sparrow_kernels.training.data.dialogues import DataError, Dialogue, read_dialogues
from sparrow_kernels.training.data.encoding import Encoded, Encoder
from sparrow_kernels.training.data.rows import text_rows

SEVERAL = [
    said("system", "be brief"),
    said("user", clip(), "and", clip("other.mp4"), "what?"),
    said("assistant", "two clips"),
    said("user", "sure?"),
    said("assistant", "quite sure"),
]


def dialogue(folder: Path, line: dict[str, Any]) -> Dialogue:
    write_clip(folder)
    write_clip(folder, "other.mp4")
    (read,) = read_dialogues(write_lines(folder / "data.jsonl", [line]))
    return read


def roots_of(encoded: Encoded, tokenizer: Any) -> str:
    """The tokens that a tree may be rooted at."""
    return tokenizer.decode(encoded.inputs["input_ids"][0][encoded.response])


@pytest.mark.parametrize("family", [*FAMILIES, "Llama"])
def test_the_assistants_tokens_count(tmp_path: Path, family: str) -> None:
    """Of each answer all tokens but the last, since what follows that is a stop id."""
    target, processor = tiny(family)
    tokenizer = getattr(processor, "tokenizer", processor)
    lines = [text_dialogue(3)] if family == "Llama" else [clip_dialogue(), {"messages": SEVERAL}]
    for line in lines:
        encoded = Encoder(target, processor)(dialogue(tmp_path, line))
        answers = [each["content"] for each in line["messages"] if each["role"] == "assistant"]
        assert roots_of(encoded, tokenizer) == "".join(answer[:-1] for answer in answers)
        (states,) = SequenceReader(target)(encoded.inputs)
        rows = text_rows(states, encoded.response, TEXT_ALONE)
        assert tokenizer.decode(rows.tokens[rows.response]) == roots_of(encoded, tokenizer)


# As LLaVA-OneVision's own: media first, content in parts, and a turn is written in another way than
# it is asked for.
LLAVA = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}"
    "{{ '<video>\\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\\n' + content['text'] }}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def test_a_turn_is_trained_as_it_is_emitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, processor = tiny("llava_onevision")
    monkeypatch.setattr(processor, "chat_template", LLAVA)
    encoder = Encoder(target, processor)
    made = dialogue(tmp_path, {"messages": [*SEVERAL[1:]]})
    encoded = encoder(made)
    assert roots_of(encoded, processor.tokenizer) == "quite sure"[:-1]
    prompt, whole = (each["input_ids"][0] for each in (encoder.prompts([made]), encoded.inputs))
    assert whole[: len(prompt)].equal(prompt), "what the target is asked, and what it answered"
    assert processor.tokenizer.decode(whole[len(prompt) :]) == "quite sure<|im_end|>"
    assert "two clips" in processor.tokenizer.decode(prompt)


def test_an_answer_of_one_token_has_nothing_to_draft(tmp_path: Path) -> None:
    target, processor = tiny("qwen2_5_vl")
    encoded = Encoder(target, processor)(dialogue(tmp_path, clip_dialogue("Y")))
    assert not bool(encoded.response.any())


def test_whatever_a_template_or_processor_raises_is_told_of_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, processor = tiny("qwen2_5_vl")
    made = dialogue(tmp_path, clip_dialogue())
    monkeypatch.setattr(processor, "chat_template", "{{ raise_exception('no system role') }}")
    with pytest.raises(DataError, match="data.jsonl:1: no system role"):
        Encoder(target, processor)(made)
    with pytest.raises(DataError, match="data.jsonl:1: no system role"):
        Encoder(target, processor).prompts([made])
    monkeypatch.undo()
    monkeypatch.delattr(processor, "video_processor")
    with pytest.raises(DataError, match="data.jsonl:1: .*without a video processor"):
        Encoder(target, processor)(made)


def test_prompts_are_what_comes_before_the_last_answer(tmp_path: Path) -> None:
    target, processor = tiny("qwen2_5_vl")
    made = dialogue(tmp_path, {"messages": SEVERAL})
    encoder = Encoder(target, processor)
    prompt = encoder.prompts([made])["input_ids"][0]
    whole = encoder(made).inputs["input_ids"][0]
    assert whole[: len(prompt)].equal(prompt)
    assert processor.tokenizer.decode(whole[len(prompt) :]) == "quite sure<|im_end|>\n"
    assert processor.tokenizer.decode(encoder.answer_ids(made)) == (
        "two clips<|im_end|>quite sure<|im_end|>"
    )


def test_templates_that_rewrite_what_was_said(tmp_path: Path) -> None:
    target, _ = tiny("Llama")
    tokenizer = plain_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' and not loop.last %}(said)"
        "{% else %}{{ m.content }}{% endif %}<|im_end|>{% endfor %}"
    )
    made = dialogue(tmp_path, {"messages": [*text_dialogue(1)["messages"], said("user", "so?")]})
    # The last turn alone counts then, and it is there.
    encoded = Encoder(target, tokenizer)(made)
    answer = made.messages[1]["content"]
    assert roots_of(encoded, tokenizer) == answer[:-1]
    tokenizer.chat_template = (
        "{% for m in messages %}{{ 'said' if m.role == 'assistant' else m.content }}{% endfor %}"
        "{% if add_generation_prompt %}?{% endif %}"
    )
    with pytest.raises(DataError, match=r"must write messages\[1\] as it is, and does not"):
        Encoder(target, tokenizer)(made)


def test_what_a_target_cannot_take_is_named(tmp_path: Path) -> None:
    target, processor = tiny("qwen2_5_vl")
    made = dialogue(tmp_path, clip_dialogue())
    with pytest.raises(DataError, match=r"data.jsonl:1: must be of at most 20 tokens.*got"):
        Encoder(target, processor, max_length=20)(made)
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"data.jsonl:1: .*clip.mp4"):
        Encoder(target, processor)(made)
    llama = tiny("Llama")
    with pytest.raises(DataError, match="must be text, for a target that reads text alone"):
        Encoder(*llama)(made)


def test_a_processor_without_a_template_is_refused() -> None:
    target, _ = tiny("Llama")
    with pytest.raises(ValueError, match="must have a chat template"):
        Encoder(target, plain_tokenizer())


@pytest.mark.parametrize("family", [*FAMILIES, "Llama", "Qwen3"])
@torch.no_grad()
def test_states_are_those_of_the_model_itself(tmp_path: Path, family: str) -> None:
    target, processor = tiny(family)
    line = text_dialogue(4) if family not in FAMILIES else clip_dialogue()
    encoded = Encoder(target, processor)(dialogue(tmp_path, line))
    (states,) = SequenceReader(target, range(4))(encoded.inputs)
    expected = target(**encoded.inputs, output_hidden_states=True).hidden_states
    for number, each in enumerate(expected):
        found = states.inner[number]
        scale = float(each.abs().max())
        torch.testing.assert_close(found, each[0], rtol=1e-4, atol=1e-5 * scale)
    torch.testing.assert_close(states.top, expected[-1][0], rtol=1e-4, atol=1e-4)
