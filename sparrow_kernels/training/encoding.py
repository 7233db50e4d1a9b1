"""A dialogue through a target's own chat template and processor, and which tokens it emitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.models.inputs import check_chat_template, clip_for, processor_outputs
from sparrow_kernels.training.dialogues import Dialogue
from sparrow_kernels.training.rows import response_slots


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
                template does not keep what was said before.
        """
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
        response = response_slots(whole, spread, self._stops)
        if not bool(response.any()):
            raise dialogue.wrong("an assistant's turn must be of two tokens or more, got none")
        return Encoded(inputs, response)

    def written(self, dialogue: Dialogue) -> tuple[str, list[tuple[int, int]]]:
        """The text that the chat template writes, and where in it the assistant's turns lie."""
        messages = [self._message(each) for each in dialogue.messages]
        text = self._template(messages)
        turns = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            begin = self._template(messages[:number], generate=True)
            end = self._template(messages[: number + 1])
            if not text.startswith(begin) or not text.startswith(end) or len(end) <= len(begin):
                raise dialogue.wrong(
                    f"the chat template must write messages[{number}] behind the ones before it,"
                    " and leave those as they are"
                )
            turns.append((len(begin), len(end)))
        return text, turns

    def prompts(self, dialogues: Sequence[Dialogue]) -> dict[str, Any]:
        """Processor outputs of all before the assistant's last turns, padded on the left, ready
        for `generate`. Only of dialogues without a clip there may be more than one.

        Raises:
            DataError: a clip cannot be read, or a prompt leaves no room for an answer.
        """
        before = [dialogue.prompt for dialogue in dialogues]
        texts = [
            self._template([self._message(each) for each in prompt.messages], generate=True)
            for prompt in before
        ]
        inputs = self._outputs(before, texts)
        length = inputs["input_ids"].shape[1]
        if self._longest is not None and length >= self._longest:
            raise before[-1].wrong(f"must leave room below {self._longest} tokens, got {length}")
        return inputs

    def answer_ids(self, dialogue: Dialogue) -> list[int]:
        """The ids that the target emitted, without reading a clip."""
        ids, emitted = self._emitted(*self.written(dialogue))
        return ids[emitted].tolist()

    @property
    def about(self) -> str:
        """What its outputs depend on, beside the dialogue."""
        template = self._processor.chat_template
        return f"{type(self._processor).__name__} {template} {self._fps} {self._longest}"

    @property
    def can_pad(self) -> bool:
        """Whether prompts can be put side by side."""
        return self.tokenizer.pad_token_id is not None

    def _template(self, messages: list[dict[str, Any]], generate: bool = False) -> str:
        return self._processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=generate
        )

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        """As templates take it: a tokenizer's know texts alone, a processor's also parts."""
        content = message["content"]
        if self._reads_text_alone and not isinstance(content, str):
            content = "".join(part.get("text", "") for part in content)
        elif not isinstance(content, str):
            content = [
                part if part["type"] == "text" else {"type": part["type"]} for part in content
            ]
        return {**message, "content": content}

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
        clips, images = [], []
        for dialogue in dialogues:
            if dialogue.media and self._reads_text_alone:
                raise dialogue.wrong("must be text, for a target that reads text alone")
            for part in dialogue.media:
                try:
                    if part["type"] == "image":
                        images.append(_image(part["path"]))
                    else:
                        rate = part.get("fps", self._fps)
                        clips.append(clip_for(self._processor, part["path"], rate))
                except (ValueError, OSError) as error:
                    raise dialogue.wrong(str(error)) from error
        if self._reads_text_alone:
            padding = {"padding": True, "padding_side": "left"} if len(texts) > 1 else {}
            outputs = self.tokenizer(
                texts, return_tensors="pt", add_special_tokens=False, **padding
            )
            return {name: outputs[name] for name in ("input_ids", "attention_mask")}
        try:
            return processor_outputs(self._processor, texts, clips, images)
        except ValueError as error:
            raise dialogues[-1].wrong(str(error)) from error


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
