"""Texts that a target writes, to try a draft on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.models.families import VidLLM

TEXTS, TOKENS = 8, 96
_QUESTION = "Describe the video in detail."


def question_ids(processor: Any) -> Tensor:
    """`[n]` a question in the target's own form, to be answered at length."""
    tokenizer = getattr(processor, "tokenizer", processor)
    if not getattr(processor, "chat_template", None):
        return torch.tensor(tokenizer(_QUESTION).input_ids)
    content = [{"type": "text", "text": _QUESTION}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return torch.tensor(tokenizer(text).input_ids)


def written_by(target: VidLLM, prompt: Tensor | None = None) -> Tensor:
    """`[TEXTS, n]` texts as the target writes them, sampled, always the same.

    Args:
        prompt: `[n]` what they go on from; None for the first token of any text.
    """
    if prompt is None:
        config = target.config.get_text_config()
        named = (target.generation_config.bos_token_id, config.bos_token_id, config.eos_token_id)
        first = next((each for each in named if each is not None), 0)
        prompt = torch.tensor([first[0] if isinstance(first, list) else first])
    ids = prompt.to(target.device).expand(TEXTS, -1)
    devices = [target.device] if target.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        # Whatever the target's own settings: eight texts that are one would weigh as eight.
        return target.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            repetition_penalty=1.0,
            num_beams=1,
            num_return_sequences=1,
            return_dict_in_generate=False,
            max_new_tokens=TOKENS,
            min_new_tokens=TOKENS,
        )
