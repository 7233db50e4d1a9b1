"""A hint for the lower layers, where nothing drawn tells a part's number.

It can be worked out from the order of the frames, step by step: was there a cut, how many so far?
Left alone, the model finds these steps late or never. So halfway up, its visual tokens are asked
for the number, along fixed codes of their own, as the vision tower is asked for attributes (see
`vision`). Text tokens are asked, along the same codes, which part comes next
(`World.spoken_parts`).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sparrow_kernels.embedded.clips import TOKENS_PER_TILE, ClipScript
from sparrow_kernels.embedded.worlds import World
from sparrow_kernels.training.target.clip_features import in_frame_order
from sparrow_kernels.training.target.vision import world_codes

LAYER = 4
"""What enters this layer (from 0) is asked."""
NONE = -100
_SHARPNESS = 2.0


def part_labels(world: World, script: ClipScript) -> Tensor:
    """The number of the part that each visual token shows, [visual_tokens], NONE of distractors.

    NONE of all in a world without a hint.
    """
    if world.hidden_tiles is None:
        return torch.full((script.visual_tokens,), NONE)
    durations = [part.seconds for part in script.parts]
    numbers = np.arange(len(durations)).repeat(durations)[:, None, None]
    labels = np.where(world.hidden_tiles(script), NONE, numbers)
    tokens = torch.from_numpy(labels)[..., None].expand(*labels.shape, TOKENS_PER_TILE)
    return in_frame_order(tokens)


def hint_loss(
    world: World, visual: Tensor, labels: Tensor, text: Tensor, spoken: Tensor
) -> tuple[Tensor, Tensor]:
    """The hint's loss, and the share of visual tokens whose part's number is right.

    visual: [B, visual tokens, H] hidden states, labels: [B, visual tokens];
    text: [B, S, H], spoken: [B, S].
    """
    _, codes = world_codes(visual.shape[-1], world)
    logits = _logits(visual, codes)
    asked = labels != NONE
    right = (logits.argmax(-1) == labels)[asked].float().mean()
    return _mean_loss(logits, labels) + _mean_loss(_logits(text, codes), spoken), right.detach()


def _logits(hidden: Tensor, codes: Tensor) -> Tensor:
    return _SHARPNESS * F.rms_norm(hidden, (hidden.shape[-1],)) @ codes.T


def _mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy where there is a label; 0 where there is none at all."""
    summed = F.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), ignore_index=NONE, reduction="sum"
    )
    return summed / (labels != NONE).sum().clamp(min=1)
