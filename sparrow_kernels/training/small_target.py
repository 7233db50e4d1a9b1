"""Builders of the small target: a Qwen2.5-VL of under two million parameters, and its processor.

The vision tower attends within windows of 56x56 pixels only. A tile of the embedded clips fills
such a window, so its features are the same alone and in a wall of tiles: what is learnt on single
tiles holds for frames of any size.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)

from sparrow_kernels.embedded.world import TILE
from sparrow_kernels.embedded.worlds import EASY, World
from sparrow_kernels.models.inputs import build_inputs
from sparrow_kernels.video.clip import Clip

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PAD, _, END, VISION_START, VISION_END, IMAGE, VIDEO = range(len(SPECIAL_TOKENS))

TOKENS_PER_SECOND = 2
MAX_POSITIONS = 32768
HIDDEN = 128
_MAX_VIDEO_TOKENS = 28000  # leaves room for a question and an answer in the context
_HALF = [0.5, 0.5, 0.5]  # mean and deviation: pixels from -1 to 1
_WORD_PATTERN = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]|\s"

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(world: World = EASY) -> PreTrainedTokenizerBase:
    """One token a word of an embedded world, its leading space included; other text in bytes.

    Decoding joins tokens without adding anything, so text streams token by token and any text
    survives the round trip.
    """
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORD_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    phrases = [*world.all_phrases(), "user\n", "assistant\n"]
    phrases += [" " + phrase for phrase in phrases]  # a first word also inside a text
    words = {word for phrase in phrases for word, _ in split.pre_tokenize_str(phrase)}
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = [*SPECIAL_TOKENS, *symbols, *sorted(words - set(symbols))]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    # With ignore_merges a word of the vocabulary is one token although there are no merges.
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[t for t in SPECIAL_TOKENS[1:] if t != "<|im_end|>"],
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def build_processor(world: World = EASY) -> Qwen2_5_VLProcessor:
    """A processor that leaves the frames of a world's clips alone and bounds all others.

    Frames of up to the largest wall's pixels (336x336 in the easy world) keep their size; larger
    ones shrink. A clip of a thousand frames still fits the context, since the frames also share a
    total of visual tokens.
    """
    # They need torchvision; what else is in this file is used without one.
    from transformers import Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    size = {"shortest_edge": TILE * TILE, "longest_edge": (world.widest * TILE) ** 2}
    video = Qwen2VLVideoProcessor(
        size=size,
        cap_pixels_per_frame=True,
        # The processor spends 90 % of this number.
        max_video_tokens=round(_MAX_VIDEO_TOKENS / 0.9),
        fps=2,
        max_frames=440,
        image_mean=_HALF,
        image_std=_HALF,
    )
    image = Qwen2VLImageProcessor(size=size, image_mean=_HALF, image_std=_HALF)
    return Qwen2_5_VLProcessor(image, build_tokenizer(world), video, chat_template=CHAT_TEMPLATE)


def build_config(vocabulary: int, layers: int) -> Qwen2_5_VLConfig:
    """The shape of the small target."""
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": HIDDEN,
            "intermediate_size": 384,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": MAX_POSITIONS,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [8, 4, 4],
            },
            "bos_token_id": PAD,
            "eos_token_id": END,
            "pad_token_id": PAD,
            "initializer_range": 0.04,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "out_hidden_size": HIDDEN,
            "window_size": TILE,
            "fullatt_block_indexes": [],
            "tokens_per_second": TOKENS_PER_SECOND,
            "initializer_range": 0.04,
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=True,
    )


def check_small_target(folder: Path) -> None:
    """Raise `ValueError` where `folder` holds another model than `build_config` describes: of those
    alone the package's own clips can be learnt."""
    config, ours = AutoConfig.from_pretrained(folder), build_config(len(SPECIAL_TOKENS), 1)
    vision = getattr(config, "vision_config", None)
    names = ("depth", "hidden_size", "num_heads", "out_hidden_size", "patch_size", "window_size")
    if all(getattr(vision, name, None) == getattr(ours.vision_config, name) for name in names):
        return
    raise ValueError(
        f"--data must be given for {folder}, of family {config.model_type}: the package's own clips"
        " are for what `sparrow train target` makes (dialogues, a JSON object a line;"
        " docs/training.md has their format)"
    )


def build_target(
    vocabulary: int, layers: int = 8, seed: int = 0
) -> Qwen2_5_VLForConditionalGeneration:
    """A freshly initialised target (float32) of the given depth."""
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration._from_config(
        build_config(vocabulary, layers), attn_implementation="sdpa"
    )
    model.generation_config = GenerationConfig(
        bos_token_id=PAD, eos_token_id=END, pad_token_id=PAD, do_sample=False
    )
    return model


def clip_inputs(processor: Any, frames: np.ndarray, fps: float, question: str) -> dict[str, Any]:
    """What `generate` takes, for a question about a whole clip: uint8 [T, H, W, 3] frames."""
    clip = Clip(torch.from_numpy(frames).permute(0, 3, 1, 2), Fraction(fps))
    return build_inputs(processor, question, [clip])
