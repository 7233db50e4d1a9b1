"""A dialogue through a target's own chat template and processor, and which tokens it emitted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.models.inputs import check_chat_template, clip_for, processor_outputs
from sparrow_kernels.training.data.dialogues import DataError, Dialogue
from sparrow_kernels.training.data.rows import response_slots

_END_OF_TURN = 8
"""Tokens that templates write behind an answer, at most."""


@dataclass
class Encoded:
    """A dialogue, ready for the target."""

    inputs: dict[str, Any]
    """Processor outputs of the whole text, a batch of one."""
    response: Tensor
    """`[n]` bool, slots that a tree may be rooted at."""


class Encoder:
    """Encodes dialogues for one target.

    Args:
        target: of which the configuration says which ids stop a text, and which stand for a clip.
        processor: its own; its tokenizer where it reads text alone.
        fps: at which clips are sampled, where a line does not say.
        max_length: the most tokens of a dialogue, by default the target's context.

    Raises:
        ValueError: no chat template, or a tokenizer that cannot say where its tokens lie.
    """

    def __init__(
        self,
        target: Any,
        processor: Any,
        *,
        fps: float | str | Fraction = 2.0,
        max_length: int | None = None,
    ) -> None:
        check_chat_template(processor)
        self._processor, self._fps = processor, fps
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self._reads_text_alone = self.tokenizer is processor
        if not getattr(self.tokenizer, "is_fast", False):
            raise ValueError(
                "processor must have a fast tokenizer, which says where in a text its tokens lie,"
                f" got {type(self.tokenizer).__name__}"
            )
        config = target.config
        context = getattr(config.get_text_config(), "max_position_embeddings", None)
        limits = [each for each in (context, max_length) if each is not None]
        self._longest = min(limits) if limits else None
        self._stops = stop_ids(target)
        names = ("video_token_id", "image_token_id", "video_token_index", "image_token_index")
        ids = {getattr(config, name, None) for name in names}
        self._placeholders = torch.tensor(sorted(each for each in ids if each is not None))

    def __call__(self, dialogue: Dialogue) -> Encoded:
        """The dialogue, with its clips read.

        Raises:
            DataError: a clip cannot be read, the text is longer than the target takes, or the chat
                template does not write it.
        """
        with _blaming(dialogue):
            text, answers = self.written(dialogue)
            ids, emitted = self._emitted(text, answers)
            inputs = self._outputs([dialogue], [text])
        whole = inputs["input_ids"][0]
        if self._longest is not None and len(whole) > self._longest:
            raise dialogue.wrong(
                f"must be of at most {self._longest} tokens, clips and all, got {len(whole)}"
                " (fewer frames a second, or a shorter clip)"
            )
        # The processor puts a clip's tokens in the place of one; behind the last all is the same.
        places = torch.isin(ids, self._placeholders).nonzero()
        tail = len(ids) - (int(places[-1, 0]) + 1 if len(places) else 0)
        if tail > len(whole) or not whole[len(whole) - tail :].equal(ids[len(ids) - tail :]):
            raise dialogue.wrong(
                "the processor must leave what is said behind a clip as the tokenizer has it"
            )
        spread = torch.zeros(len(whole), dtype=torch.bool)
        spread[len(whole) - tail :] = emitted[len(ids) - tail :]
        return Encoded(inputs, response_slots(whole, spread, self._stops))

    def written(self, dialogue: Dialogue) -> tuple[str, list[tuple[int, int]]]:
        """The text of a dialogue, and where in it the assistant's turns lie.

        A template may write a turn in another way than it asks for one (LLaVA-OneVision's does):
        then the last turn alone counts, written as the target would emit it.
        """
        messages = [self._message(each) for each in dialogue.messages]
        text = self._template(messages)
        turns = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            begin = self._template(messages[:number], generate=True)
            end = self._template(messages[: number + 1])
            if not text.startswith(begin) or not text.startswith(end) or len(end) <= len(begin):
                return self._last_turn(dialogue)
            turns.append((len(begin), len(end)))
        return text, turns

    def _last_turn(self, dialogue: Dialogue) -> tuple[str, list[tuple[int, int]]]:
        answers = [n for n, each in enumerate(dialogue.messages) if each["role"] == "assistant"]
        messages = [self._message(each) for each in dialogue.messages[: answers[-1] + 1]]
        begin = self._template(messages[:-1], generate=True)
        end = self._template(messages)
        answer = _text_of(dialogue.messages[answers[-1]]).strip()
        place = end.rfind(answer)
        if place < 0:
            raise dialogue.wrong(
                f"the chat template must write messages[{answers[-1]}] as it is, and does not"
            )
        text = begin + answer + end[place + len(answer) :]
        return text, [(len(begin), len(text))]

    def prompts(self, dialogues: Sequence[Dialogue]) -> dict[str, Any]:
        """Processor outputs of all before the assistant's last turns, padded on the left, ready
        for `generate`. Only of dialogues without a clip there may be more than one.

        Raises:
            DataError: a clip cannot be read, or a prompt leaves no room for an answer.
        """
        before = [dialogue.prompt for dialogue in dialogues]
        texts = []
        for prompt in before:
            with _blaming(prompt):
                written = [self._message(each) for each in prompt.messages]
                texts.append(self._template(written, generate=True))
        with _blaming(before[-1]):
            inputs = self._outputs(before, texts)
        length = inputs["input_ids"].shape[1]
        if self._longest is not None and length >= self._longest:
            raise before[-1].wrong(f"must leave room below {self._longest} tokens, got {length}")
        return inputs

    def room_behind(self, length: int) -> int | None:
        """Tokens that an answer may have behind a prompt of so many; None for any number."""
        return None if self._longest is None else max(1, self._longest - length - _END_OF_TURN)

    def answer_ids(self, dialogue: Dialogue) -> list[int]:
        """The ids that the target emitted, without reading a clip."""
        with _blaming(dialogue):
            ids, emitted = self._emitted(*self.written(dialogue))
        return ids[emitted].tolist()

    @property
    def about(self) -> str:
        """What its outputs depend on, beside the dialogue."""
        processor, tokenizer = self._processor, self.tokenizer.backend_tokenizer
        settings = getattr(processor, "to_json_string", lambda: "")()
        known = (settings, processor.chat_template, tokenizer.to_str(), self._stops.tolist())
        digest = hashlib.sha256(repr(known).encode()).hexdigest()
        return f"{type(processor).__name__} {digest} {self._fps} {self._longest}"

    @property
    def can_pad(self) -> bool:
        """Whether prompts can be put side by side."""
        return self.tokenizer.pad_token_id is not None

    def _template(self, messages: list[dict[str, Any]], generate: bool = False) -> str:
        return self._processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=generate
        )

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        """As templates take it: a tokenizer's know texts alone, a processor's want parts."""
        if self._reads_text_alone:
            return {**message, "content": _text_of(message)}
        content = message["content"]
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        parts = [part if part["type"] == "text" else {"type": part["type"]} for part in content]
        return {**message, "content": parts}

    def _emitted(self, text: str, answers: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """The text's ids `[m]`, and which the target emitted: each answer up to its first stop."""
        encoded = self.tokenizer(
            text,
            return_offsets_mapping=True,
            add_special_tokens=not self._reads_text_alone,  # as the processor has it
        )
        ids = torch.tensor(encoded["input_ids"])
        begins = torch.tensor([begin for begin, _ in encoded["offset_mapping"]])
        is_stop = torch.isin(ids, self._stops)
        emitted = torch.zeros(len(ids), dtype=torch.bool)
        for begin, end in answers:
            own = ((begins >= begin) & (begins < end)).nonzero()[:, 0]
            stop = is_stop[own].nonzero()
            emitted[own[: int(stop[0, 0]) + 1] if len(stop) else own] = True
        return ids, emitted

    def _outputs(self, dialogues: Sequence[Dialogue], texts: list[str]) -> dict[str, Any]:
        if self._reads_text_alone:
            for dialogue in dialogues:
                if dialogue.media:
                    raise dialogue.wrong("must be text, for a target that reads text alone")
            padding = {"padding": True, "padding_side": "left"} if len(texts) > 1 else {}
            outputs = self.tokenizer(
                texts, return_tensors="pt", add_special_tokens=False, **padding
            )
            return {name: outputs[name] for name in ("input_ids", "attention_mask")}
        clips, images = [], []
        for dialogue in dialogues:
            for part in dialogue.media:
                if part["type"] == "image":
                    images.append(_image(part["path"]))
                else:
                    rate = part.get("fps", self._fps)
                    clips.append(clip_for(self._processor, part["path"], rate))
        return processor_outputs(self._processor, texts, clips, images)


@contextmanager
def _blaming(dialogue: Dialogue) -> Iterator[None]:
    """Errors inside are the dialogue's: what templates, tokenizers, decoders and processors raise
    for data that they cannot take is of every type. What is not installed is no fault of it."""
    try:
        yield
    except (DataError, ImportError, MemoryError):
        raise
    except Exception as error:
        raise dialogue.wrong(str(error) or type(error).__name__) from error


def _text_of(message: dict[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def stop_ids(target: Any) -> Tensor:
    """`[K]` int64 the ids that end a text of `target`."""
    found = target.generation_config.eos_token_id
    listed = [] if found is None else found if isinstance(found, list) else [found]
    return torch.tensor(listed, dtype=torch.int64)


def _image(path: str) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except UnidentifiedImageError:
        raise ValueError(f"{path} must be an image, got another file") from None
