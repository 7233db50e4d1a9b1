"""Tiny random targets of families that no adapter names, with inputs made by hand.

Their own processors want image processors of their own and packages that are not installed here.
What reaches the model is the same: placeholder ids, one for each row of features, and pixels.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from tiny_parts import CHAT, Tiny, text_settings, tokenizer

import transformers as hf  # isort: skip  (after tiny_parts: the shim must come first)

SIDE, PATCH = 56, 14
PATCHES = (SIDE // PATCH) ** 2
_VISION = {
    **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH},
}
Pack = Callable[[list[list[torch.Tensor]], list[list[torch.Tensor]]], dict[str, torch.Tensor]]


class ByHand:
    """A processor: text with `<image>` and `<video>`, and pixels.

    Args:
        rows: features of an image, or of a frame where a model knows images only.
        frame_rows: features of a clip's frame; 0 where clips are images with text between.
        pack: pixel keywords from the images, and from the clips, of each text.
    """

    def __init__(self, rows: int, frame_rows: int, pack: Pack) -> None:
        self.tokenizer = tokenizer()
        self.tokenizer.chat_template = CHAT.replace("VIDEO", "<video>").replace("IMAGE", "<image>")
        self.apply_chat_template = self.tokenizer.apply_chat_template
        self._rows, self._frame_rows, self._pack = rows, frame_rows, pack

    def __call__(self, text: list[str], **given: Any) -> dict[str, torch.Tensor]:
        images, clips = iter(given.get("images", ())), iter(given.get("videos", ()))
        texts, of_images, of_clips = [], [], []
        for each in text:
            of_images.append([])
            of_clips.append([])
            parts = re.split("(<image>|<video>)", each)
            texts.append("".join(self._rendered(parts, images, clips, of_images, of_clips)))
        inputs = dict(self.tokenizer(texts, return_tensors="pt", padding=True))
        return {**inputs, **self._pack(of_images, of_clips)}

    def _rendered(
        self,
        parts: list[str],
        images: Iterator[torch.Tensor],
        clips: Iterator[torch.Tensor],
        of_images: list[list[torch.Tensor]],
        of_clips: list[list[torch.Tensor]],
    ) -> Iterator[str]:
        for part in parts:
            if part == "<image>":
                of_images[-1].append(scaled(next(images)))
                yield part * self._rows
            elif part == "<video>" and self._frame_rows:
                of_clips[-1].append(scaled(next(clips)))
                yield part * (self._frame_rows * len(of_clips[-1][-1]))
            elif part == "<video>":
                for number, frame in enumerate(next(clips), 1):
                    of_images[-1].append(scaled(frame))
                    yield f"Frame{number}: {'<image>' * self._rows}\n"
            else:
                yield part


def scaled(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float() / 127.5 - 1


def _stacked(images: list[list[torch.Tensor]]) -> torch.Tensor:
    return torch.stack([each for row in images for each in row])


def _a_tensor_of_images(
    images: list[Any], clips: list[Any], name: str = "pixel_values"
) -> dict[str, torch.Tensor]:
    """`[images, 3, H, W]`, and `[clips, frames, 3, H, W]`."""
    named = {name: images, "pixel_values_videos": clips}
    return {name: _stacked(each) for name, each in named.items() if any(each)}


def _images_of_each_text(images: list[Any], clips: list[Any]) -> dict[str, torch.Tensor]:
    """`[B, most images, 3, H, W]`, zeros where a text has fewer."""
    most = max(map(len, images))
    if not most:
        return {}
    empty = torch.zeros(3, SIDE, SIDE)
    filled = [row + [empty] * (most - len(row)) for row in images]
    return {"pixel_values": torch.stack([torch.stack(row) for row in filled])}


def _ids(**names: str) -> dict[str, int]:
    return {name: tokenizer().convert_tokens_to_ids(token) for name, token in names.items()}


def internvl() -> Tiny:
    vision = {**_VISION, "image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]}
    config = hf.InternVLConfig(
        text_config=hf.Qwen2Config(**text_settings()),
        vision_config=vision,
        **_ids(image_token_id="<image>"),
    )
    target = hf.InternVLForConditionalGeneration(config)
    return Tiny(target, ByHand(PATCHES // 4, 0, _a_tensor_of_images))


def smolvlm() -> Tiny:
    """Its language model is `text_model`."""
    config = hf.SmolVLMConfig(
        text_config=hf.LlamaConfig(**text_settings()),
        vision_config=_VISION,
        **_ids(image_token_id="<image>", pad_token_id="<|endoftext|>"),
    )
    target = hf.SmolVLMForConditionalGeneration(config)
    return Tiny(target, ByHand(PATCHES // 4, 0, _images_of_each_text))


def idefics3() -> Tiny:
    config = hf.Idefics3Config(
        text_config=hf.LlamaConfig(**text_settings()),
        vision_config=_VISION,
        **_ids(image_token_id="<image>", pad_token_id="<|endoftext|>"),
    )
    target = hf.Idefics3ForConditionalGeneration(config)
    return Tiny(target, ByHand(PATCHES // 4, 0, _images_of_each_text))


def video_llava() -> Tiny:
    """Its forward calls images another name before transformers 5.23."""
    config = hf.VideoLlavaConfig(
        text_config=hf.LlamaConfig(**text_settings()),
        vision_config=hf.CLIPVisionConfig(**_VISION),
        **_ids(image_token_index="<image>", video_token_index="<video>"),
    )
    target = hf.VideoLlavaForConditionalGeneration(config)
    names = inspect.signature(target.forward).parameters
    name = "pixel_values" if "pixel_values" in names else "pixel_values_images"
    return Tiny(target, ByHand(PATCHES, PATCHES + 1, partial(_a_tensor_of_images, name=name)))


GENERIC: dict[str, Callable[[], Tiny]] = {
    "internvl": internvl,
    "smolvlm": smolvlm,
    "idefics3": idefics3,
    "video_llava": video_llava,
}
