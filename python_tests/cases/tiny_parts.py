"""What tiny random targets are made of: an offline tokenizer, a chat template, a text model."""

from __future__ import annotations

from typing import Any, NamedTuple

from tokenizers import pre_tokenizers

from sparrow_kernels.models import SparrowDecoder  # noqa: F401  (lets transformers load torchvision)

import transformers as hf  # noqa: E402  isort: skip

VOCABULARY = 320
_SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>", "<image>", "<video>"),
)
# Behind the bytes, so that one more moves no other id.
_MORE_SPECIAL = (
    *("<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>"),
    *("<|begin_of_video|>", "<|end_of_video|>"),
)
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'video' %}VIDEO{% elif c.type == 'image' %}IMAGE"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Tiny(NamedTuple):
    """A target and its processor; for a text-only target the tokenizer."""

    target: Any
    processor: Any


def tokenizer() -> Any:
    """One token a byte, and the special ones."""
    vocabulary = {token: number for number, token in enumerate(_SPECIAL)}
    for byte in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[byte] = len(vocabulary)
    for token in _MORE_SPECIAL:
        vocabulary[token] = len(vocabulary)
    made = hf.Qwen2Tokenizer(
        vocab=vocabulary, merges=[], eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    made.add_special_tokens({"additional_special_tokens": [*_SPECIAL[1:], *_MORE_SPECIAL]})
    made.padding_side = "left"
    return made


def text_settings(**settings: Any) -> dict[str, Any]:
    """What every text configuration is made of."""
    ids = tokenizer().convert_tokens_to_ids
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "bos_token_id": ids("<|endoftext|>"),
        "eos_token_id": ids("<|im_end|>"),
        "pad_token_id": ids("<|endoftext|>"),
        **settings,
    }
