"""The processor of a Qwen2-VL or Qwen2.5-VL, for text and clips, in plain torch.

transformers' own needs torchvision, whose wheels go with one build of torch each. This one makes
the same tensors, bit for bit, of the same files, where torchvision cannot be imported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate
from transformers import AutoTokenizer

_SERVED = ("Qwen2VLProcessor", "Qwen2_5_VLProcessor")
_BICUBIC = 3  # as PIL numbers it
_VIDEO, _IMAGE = 2, 1  # in mm_token_type_ids


def serves(directory: Path) -> bool:
    """Whether the processor saved in `directory` is one that `PlainProcessor` can stand for."""
    settings = _settings(directory)
    video = settings.get("video_processor", {})
    return (
        settings.get("processor_class") in _SERVED
        and video.get("video_processor_type") == "Qwen2VLVideoProcessor"
        and video.get("resample", _BICUBIC) == _BICUBIC
        and all(video.get(name, True) for name in ("do_resize", "do_rescale", "do_normalize"))
    )


def _settings(directory: Path) -> dict[str, Any]:
    path = directory / "processor_config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


class PlainVideoProcessor:
    """Frames to patches, as Qwen2VLVideoProcessor makes them."""

    def __init__(
        self,
        size: dict[str, int],
        image_mean: Sequence[float],
        image_std: Sequence[float],
        patch_size: int = 14,
        temporal_patch_size: int = 2,
        merge_size: int = 2,
        max_frames: int = 768,
        rescale_factor: float = 1 / 255,
        cap_pixels_per_frame: bool | None = None,
        max_video_tokens: int = 128000,
        **_: Any,
    ) -> None:
        self.size, self.max_frames = size, max_frames
        self.patch_size, self.temporal_patch_size = patch_size, temporal_patch_size
        self.merge_size, self.max_video_tokens = merge_size, max_video_tokens
        self.caps_pixels = bool(cap_pixels_per_frame)
        self.mean, self.std = (
            (torch.tensor(three) * (1 / rescale_factor)).view(3, 1, 1)
            for three in (image_mean, image_std)
        )

    def __call__(self, frames: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
        """Patches and grid of a clip.

        Args:
            frames: uint8 [frames, 3, height, width].

        Returns:
            float32 [patches, 3 * temporal_patch_size * patch_size ** 2], and [t, h, w] in patches.
        """
        pixels = self._resized(frames).float().sub(self.mean).div_(self.std)
        if short := -len(pixels) % self.temporal_patch_size:
            pixels = torch.cat([pixels, pixels[-1:].expand(short, -1, -1, -1)])
        side, merge = self.patch_size, self.merge_size
        t = len(pixels) // self.temporal_patch_size
        h, w = (length // side for length in pixels.shape[2:])
        pixels = pixels.view(
            *(t, self.temporal_patch_size, 3, h // merge, merge, side, w // merge, merge, side)
        )
        patches = pixels.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(t * h * w, -1)
        return patches, [t, h, w]

    def _resized(self, frames: torch.Tensor) -> torch.Tensor:
        size = self._target_size(len(frames), *frames.shape[2:])
        if size == tuple(frames.shape[2:]):
            return frames
        return interpolate(frames, size, mode="bicubic", antialias=True, align_corners=False)

    def _target_size(self, count: int, height: int, width: int) -> tuple[int, int]:
        """Multiples of a merged patch's side whose area is within bounds, the shape nearly kept."""
        if max(height, width) > 200 * min(height, width):
            raise ValueError(
                f"clip must be at most 200 times as long as wide, got {height} x {width} pixels"
            )
        side = self.patch_size * self.merge_size
        least, most = self.size["shortest_edge"], self.size["longest_edge"]
        if self.caps_pixels:  # 90 % of max_video_tokens, shared by the frames
            total = int(self.max_video_tokens * side * side * 0.9)
            share = total * self.temporal_patch_size // count
            most = max(min(most, share), int(least * 1.05))
        rows, columns = (round(length / side) * side for length in (height, width))
        if rows * columns > most:
            by = math.sqrt(height * width / most)
            rows, columns = (
                max(side, math.floor(length / by / side) * side) for length in (height, width)
            )
        elif rows * columns < least:
            by = math.sqrt(least / (height * width))
            rows, columns = (math.ceil(length * by / side) * side for length in (height, width))
        return rows, columns


class PlainProcessor:
    """Prompts and their clips to a model's inputs; refuses pictures by name."""

    def __init__(self, directory: str | Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.video_processor = PlainVideoProcessor(**_settings(Path(directory))["video_processor"])
        self.chat_template = self.tokenizer.chat_template
        template = Path(directory) / "chat_template.jinja"
        if self.chat_template is None and template.is_file():
            self.chat_template = template.read_text(encoding="utf-8")
        self._tokens = {
            kind: getattr(self.tokenizer, f"{name}_token", None) or f"<|{name}_pad|>"
            for kind, name in ((_VIDEO, "video"), (_IMAGE, "image"))
        }

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """As the tokenizer's, with this processor's template."""
        options.setdefault("chat_template", self.chat_template)
        return self.tokenizer.apply_chat_template(conversation, **options)

    def __call__(
        self,
        text: Sequence[str],
        videos: Sequence[torch.Tensor] = (),
        video_metadata: Sequence[Any] = (),
        images: Any = None,
        do_sample_frames: bool = False,
        return_tensors: str = "pt",
        **padding: Any,
    ) -> dict[str, torch.Tensor]:
        """What the model takes.

        Args:
            text: prompts, one place for a clip in order of `videos`.
            videos: uint8 [frames, 3, height, width] each, sampled already.
            video_metadata: of each clip, with its `sampled_fps`.

        Raises:
            NotImplementedError: pictures, sampling.
            ValueError: as many clips as places are needed.
        """
        if images is not None or do_sample_frames or return_tensors != "pt":
            raise NotImplementedError(
                "without torchvision, prompts hold text and clips whose frames were chosen already"
            )
        made = [self.video_processor(video) for video in videos]
        texts = self._with_places(text, [grid for _, grid in made])
        outputs = dict(self.tokenizer(texts, return_tensors="pt", **padding))
        ids = outputs["input_ids"]
        kinds = torch.zeros_like(ids)
        for kind, token in self._tokens.items():
            kinds[ids == self.tokenizer.convert_tokens_to_ids(token)] = kind
        outputs["mm_token_type_ids"] = kinds
        if made:
            outputs["pixel_values_videos"] = torch.cat([patches for patches, _ in made])
            outputs["video_grid_thw"] = torch.tensor([grid for _, grid in made])
            outputs["second_per_grid_ts"] = torch.tensor(
                [self.video_processor.temporal_patch_size / of.sampled_fps for of in video_metadata]
            )
        return outputs

    def _with_places(self, texts: Sequence[str], grids: Sequence[list[int]]) -> list[str]:
        """Each clip's one placeholder repeated, once for a token that the vision tower makes."""
        token, merged = self._tokens[_VIDEO], self.video_processor.merge_size**2
        found = sum(text.count(token) for text in texts)
        if found != len(grids):
            raise ValueError(f"text must have a place a clip = {len(grids)}, got {found}")
        left = iter(grids)
        return [
            token.join(
                [
                    part if at == 0 else token * (math.prod(next(left)) // merged - 1) + part
                    for at, part in enumerate(text.split(token))
                ]
            )
            for text in texts
        ]
