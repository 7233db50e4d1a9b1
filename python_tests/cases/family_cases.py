"""Tiny random targets of every family, with the family's own processor and an offline tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from generic_cases import GENERIC, ByHand
from mixture_cases import glm4v_moe, qwen3_vl_moe
from tiny_parts import CHAT, VOCABULARY, Tiny, text_settings, tokenizer

from sparrow_kernels.drafting import SparrowDraft

import transformers as hf  # isort: skip
from transformers.video_utils import VideoMetadata  # isort: skip

__all__ = [
    "FAMILIES",
    "GENERIC",
    "MIXTURES",
    "TEXT_ONLY",
    "VOCABULARY",
    "Tiny",
    "draft_for",
    "pixels",
]
__all__ += ["prompts", "tiny", "turns", "written"]

_QWEN_CHAT = CHAT.replace("VIDEO", "<|vision_start|><|video_pad|><|vision_end|>").replace(
    "IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"
)
_LLAVA_CHAT = CHAT.replace("VIDEO", "<video>").replace("IMAGE", "<image>")


def _qwen_ids(ids: Callable[[str], int]) -> dict[str, int]:
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    fields = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {field: ids(f"<|{name}|>") for field, name in zip(fields, names, strict=True)}


def _mrope(sections: list[int], **settings: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections, **settings}
    return {"rope_parameters": rope}


def qwen2_5_vl() -> Tiny:
    tokens = tokenizer()
    ids = tokens.convert_tokens_to_ids
    config = hf.Qwen2_5_VLConfig(
        text_config=text_settings(**_mrope([2, 3, 3])),
        vision_config={
            **{"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2},
            **{"out_hidden_size": 64, "fullatt_block_indexes": [1], "window_size": 112},
            **{"patch_size": 14, "tokens_per_second": 2},
        },
        **_qwen_ids(ids),
    )
    video = hf.Qwen2VLVideoProcessor(size={"shortest_edge": 28 * 28, "longest_edge": 56 * 56})
    processor = hf.Qwen2_5_VLProcessor(
        hf.Qwen2VLImageProcessor(), tokens, video, chat_template=_QWEN_CHAT
    )
    return Tiny(hf.Qwen2_5_VLForConditionalGeneration(config), processor)


def qwen2_vl() -> Tiny:
    tokens = tokenizer()
    ids = tokens.convert_tokens_to_ids
    config = hf.Qwen2VLConfig(
        text_config=text_settings(**_mrope([2, 3, 3])),
        vision_config={
            **{"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 64, "patch_size": 14},
        },
        **_qwen_ids(ids),
    )
    video = hf.Qwen2VLVideoProcessor(size={"shortest_edge": 28 * 28, "longest_edge": 56 * 56})
    processor = hf.Qwen2VLProcessor(
        hf.Qwen2VLImageProcessor(), tokens, video, chat_template=_QWEN_CHAT
    )
    return Tiny(hf.Qwen2VLForConditionalGeneration(config), processor)


def qwen3_vl() -> Tiny:
    tokens = tokenizer()
    ids = tokens.convert_tokens_to_ids
    config = hf.Qwen3VLConfig(
        text_config=text_settings(head_dim=16, **_mrope([4, 2, 2], mrope_interleaved=True)),
        vision_config={
            **{"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2},
            **{"out_hidden_size": 64, "patch_size": 16, "deepstack_visual_indexes": [0, 1]},
            **{"num_position_embeddings": 64},
        },
        **_qwen_ids(ids),
    )
    video = hf.Qwen3VLVideoProcessor(size={"shortest_edge": 32 * 32 * 2, "longest_edge": 64**3})
    processor = hf.Qwen3VLProcessor(
        hf.Qwen2VLImageProcessor(patch_size=16), tokens, video, chat_template=_QWEN_CHAT
    )
    return Tiny(hf.Qwen3VLForConditionalGeneration(config), processor)


def llava_onevision() -> Tiny:
    tokens = tokenizer()
    ids = tokens.convert_tokens_to_ids
    side, patch = 56, 14
    pinpoints = [[side, side], [side, 2 * side]]
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            patch_size=patch,
            image_size=side,
            num_hidden_layers=2,
            num_attention_heads=2,
            vision_use_head=False,
        ),
        text_config=hf.Qwen2Config(**text_settings()),
        image_token_index=ids("<image>"),
        video_token_index=ids("<video>"),
        image_grid_pinpoints=pinpoints,
    )
    size = {"height": side, "width": side}
    processor = hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pinpoints),
        tokens,
        hf.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=(side // patch) ** 2,
        vision_feature_select_strategy="full",
        chat_template=_LLAVA_CHAT,
    )
    return Tiny(hf.LlavaOnevisionForConditionalGeneration(config), processor)


def glm4v() -> Tiny:
    """Rotates half of a head, and has one placeholder for images and clips."""
    tokens = tokenizer()
    ids = tokens.convert_tokens_to_ids
    config = hf.Glm4vConfig(
        text_config=text_settings(**_mrope([1, 1, 2], partial_rotary_factor=0.5)),
        vision_config={
            **{"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2},
            **{"out_hidden_size": 64, "patch_size": 14, "image_size": 56},
        },
        image_token_id=ids("<|image|>"),
        video_token_id=ids("<|video|>"),
        **{
            f"{kind}_{end}_token_id": ids(f"<|{word}_of_{kind}|>")
            for kind in ("image", "video")
            for end, word in (("start", "begin"), ("end", "end"))
        },
    )
    chat = CHAT.replace("VIDEO", "<|begin_of_video|><|video|><|end_of_video|>").replace(
        "IMAGE", "<|begin_of_image|><|image|><|end_of_image|>"
    )
    processor = hf.Glm4vProcessor(
        hf.Glm4vImageProcessor(size={"shortest_edge": 28 * 28, "longest_edge": 2 * 56 * 56}),
        tokens,
        hf.Glm4vVideoProcessor(size={"shortest_edge": 28 * 28, "longest_edge": 56**3}),
        chat_template=chat,
    )
    return Tiny(hf.Glm4vForConditionalGeneration(config), processor)


def text_only(kind: str, **settings: Any) -> Tiny:
    """A causal model without a vision tower."""
    tokens = tokenizer()
    tokens.chat_template = _LLAVA_CHAT
    config = getattr(hf, f"{kind}Config")(**text_settings(**settings))
    return Tiny(getattr(hf, f"{kind}ForCausalLM")(config), tokens)


FAMILIES: dict[str, Callable[[], Tiny]] = {
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "llava_onevision": llava_onevision,
    "glm4v": glm4v,
}
MIXTURES: dict[str, Callable[[], Tiny]] = {
    "qwen3_vl_moe": lambda: qwen3_vl_moe(qwen3_vl()),
    "glm4v_moe": lambda: glm4v_moe(glm4v()),
}
TEXT_ONLY: dict[str, Callable[[], Tiny]] = {
    "Llama": partial(text_only, "Llama"),
    "Qwen2": partial(text_only, "Qwen2"),
    "Qwen3": partial(text_only, "Qwen3"),
    "Mistral": partial(text_only, "Mistral", sliding_window=None),
    "Phi3": partial(text_only, "Phi3"),
}


@cache
def tiny(family: str) -> Tiny:
    """A target whose texts do not repeat themselves at once and follow what is seen, in float32."""
    torch.manual_seed(len(family))
    made = {**FAMILIES, **MIXTURES, **GENERIC, **TEXT_ONLY}[family]()
    made.target.eval().requires_grad_(False)
    with torch.no_grad():
        for name, parameter in made.target.named_parameters():
            if parameter.dim() >= 2 and not name.startswith("lm_head"):
                parameter.mul_(12)
            elif "q_norm" in name:  # which undoes what was done to the product before it
                parameter.mul_(6)
    return made


@cache
def draft_for(name: str) -> SparrowDraft:
    torch.manual_seed(1)
    return SparrowDraft.for_target(tiny(name).target, initializer_range=0.1).eval()


def pixels(frames: int, size: int = 56, seed: int = 0) -> torch.Tensor:
    """`[frames, 3, size, size]` uint8 noise."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (frames, 3, size, size), dtype=np.uint8))


def turns(*parts: str | int | None) -> list[dict[str, Any]]:
    """Content of one user's turn: text, a number of frames for a clip, None for an image."""
    content: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        else:
            content.append({"type": "image" if part is None else "video", "frames": part})
    return [{"role": "user", "content": content}]


def _parts(chats: Any, kind: str) -> list[dict[str, Any]]:
    contents = [turn["content"] for chat in chats for turn in chat]
    parts = [part for content in contents if not isinstance(content, str) for part in content]
    return [part for part in parts if part["type"] == kind]


def _without_images(turn: dict[str, Any]) -> Any:
    content = turn["content"]
    if isinstance(content, str):
        return content
    return [part for part in content if part["type"] != "image"]


def prompts(processor: Any, *chats: list[dict[str, Any]]) -> dict[str, Any]:
    """Processor output for a batch of chats, padded on the left.

    Where a processor wants clips of one length all take that of the first; where a model has one
    placeholder for clips and images, which it cannot tell apart, images beside clips are left out.
    """
    if isinstance(processor, hf.Glm4vProcessor) and _parts(chats, "video"):
        chats = tuple(
            [{**turn, "content": _without_images(turn)} for turn in chat] for chat in chats
        )
    render = getattr(processor, "apply_chat_template")  # noqa: B009
    texts = [render(chat, add_generation_prompt=True, tokenize=False) for chat in chats]
    clips = [part["frames"] for part in _parts(chats, "video")]
    if isinstance(processor, (hf.LlavaOnevisionProcessor, ByHand)):
        clips = clips[:1] * len(clips)
    images = len(_parts(chats, "image"))
    arguments: dict[str, Any] = {}
    if clips:
        arguments["videos"] = [pixels(frames, seed=frames) for frames in clips]
        arguments["video_metadata"] = [
            VideoMetadata(
                total_num_frames=frames,
                fps=2.0,
                width=56,
                height=56,
                duration=frames / 2,
                frames_indices=list(range(frames)),
            )
            for frames in clips
        ]
        arguments["do_sample_frames"] = False
    if images:
        arguments["images"] = [pixels(1, seed=90 + n)[0] for n in range(images)]
    return dict(processor(text=texts, return_tensors="pt", padding=True, **arguments))


_WRITTEN: dict[bytes, torch.Tensor] = {}


def written(name: str, inputs: dict[str, Any], **settings: Any) -> torch.Tensor:
    """What transformers' own loop writes to a prompt, which it is asked once."""
    asked = hashlib.sha256(f"{name} {sorted(settings.items())}".encode())
    for key, value in sorted(inputs.items()):
        asked.update(f"{key} {list(value.shape)} {value.dtype}".encode() + value.numpy().tobytes())
    if asked.digest() not in _WRITTEN:
        _WRITTEN[asked.digest()] = tiny(name).target.generate(**inputs, **settings)
    return _WRITTEN[asked.digest()]
