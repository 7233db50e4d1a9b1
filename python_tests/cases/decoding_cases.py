"""Random targets and prompts for the decoder's tests: no trained weights, every position distinct.

A random target repeats itself less when its weights are large; a random draft is wrong nearly
always, so tests that need acceptance let it draft by `mimic_draft`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch

from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.models.request import Request
from sparrow_kernels.models.target import Prefill
from sparrow_kernels.training.small_target import build_processor, build_target


@cache
def random_pair(layers: int = 2, seed: int = 0) -> tuple[Any, Any, Any]:
    """(target, draft, processor), float32, in eval mode."""
    processor = build_processor()
    target = build_target(len(processor.tokenizer), layers=layers, seed=seed).eval()
    with torch.no_grad():
        for parameter in target.model.language_model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(2.5)
    torch.manual_seed(seed + 1)
    draft = SparrowDraft.for_target(
        target, initializer_range=0.1, tree={"total": 6, "depth": 5, "width": 1}
    ).eval()
    return target, draft, processor


def requested(target: Any, inputs: dict[str, Any], **settings: Any) -> Request:
    """The request that a call of `generate` makes, before it has done anything."""
    caught: list[Request] = []

    def catch(model, input_ids, synced_gpus=False, streamer=None, **keywords):
        names = ("logits_processor", "stopping_criteria", "generation_config")
        ours = [keywords.pop(name) for name in names]
        caught.append(Request(model, input_ids, *ours, None, keywords, tree_nodes=1, max_path=1))
        return input_ids

    settings = {"max_new_tokens": 4, "do_sample": False, **settings}
    target.generate(**inputs, custom_generate=catch, **settings)
    return caught[0]


@torch.no_grad()
def prefilled(target: Any, inputs: dict[str, Any], **settings: Any) -> Prefill:
    """What a prompt leaves behind."""
    return requested(target, inputs, **settings).prefill()[0]


def video(frames: int, size: int = 56, seed: int = 0) -> np.ndarray:
    """`[frames, 3, size, size]` uint8 noise."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (frames, 3, size, size), dtype=np.uint8)


def prompt(
    processor: Any, clips: list[int], text: str = "describe the video", images: int = 0
) -> dict[str, torch.Tensor]:
    """Processor output for a prompt with clips of the given frame counts, and images, in it."""
    from transformers.video_utils import VideoMetadata  # needs torchvision, so the shim, first

    content: list[dict[str, str]] = []
    for _ in clips:
        content += [{"type": "video"}, {"type": "text", "text": "and"}]
    content += [{"type": "image"}] * images
    content.append({"type": "text", "text": text})
    chat = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    arguments: dict[str, Any] = {}
    if clips:
        arguments["videos"] = [torch.from_numpy(video(n, seed=n)) for n in clips]
        arguments["video_metadata"] = [
            VideoMetadata(
                total_num_frames=n, fps=2.0, frames_indices=list(range(n)), duration=n / 2
            )
            for n in clips
        ]
        arguments["do_sample_frames"] = False
    if images:
        arguments["images"] = [torch.from_numpy(video(1, seed=9)[0]) for _ in range(images)]
    return dict(processor(text=[chat], return_tensors="pt", **arguments))
