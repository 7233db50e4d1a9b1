"""A hint for the lower layers: which part a visual token belongs to, and what was shown before.

Nothing drawn tells a part's number. It can be worked out from the order of the frames, step by
step: what did the second before show, was there a cut, how many cuts so far? Left alone, the model
finds these steps late or never. So halfway up, its visual tokens are asked for the results, along
fixed codes of their own, as the vision tower is asked for attributes (see `vision`). Text tokens
are asked, along the same codes, which part they are about to speak of (see `spoken`).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sparrow_kernels.embedded.clips import TOKENS_PER_TILE, ClipScript, hidden_tiles
from sparrow_kernels.embedded.world import ATTRIBUTE_COUNTS, MAX_PARTS
from sparrow_kernels.training.target.clip_features import in_frame_order
from sparrow_kernels.training.target.spoken import NONE
from sparrow_kernels.training.target.vision import attribute_codes

LAYER = 4
"""What enters this layer (from 0) is asked."""
# The part's number, then the attributes of the part before.
GROUPS = (MAX_PARTS, *ATTRIBUTE_COUNTS)
_SHARPNESS = 2.0


def order_labels(script: ClipScript) -> Tensor:
    """What each visual token is asked, [visual_tokens, 7], -100 where nothing.

    Every token of a scene is asked for the number of its part; those of the first second of a part
    also for the attributes of the part before. Distractors are asked nothing.
    """
    rows = []
    before = np.full(len(ATTRIBUTE_COUNTS), NONE)
    for number, part in enumerate(script.parts):
        asked = np.full((part.seconds, len(GROUPS)), NONE)
        asked[:, 0] = number
        asked[0, 1:] = before
        rows.append(asked)
        before = np.array(part.attributes)
    seconds = torch.from_numpy(np.concatenate(rows))
    shape = (script.seconds, script.tiles, script.tiles, TOKENS_PER_TILE, len(GROUPS))
    labels = seconds[:, None, None, None].expand(shape)
    hidden = torch.from_numpy(hidden_tiles(script))[None, :, :, None, None]
    return in_frame_order(labels.masked_fill(hidden, NONE))


def order_codes(hidden_size: int) -> Tensor:
    """Orthonormal rows [sum(GROUPS), H], orthogonal to those of the vision tower too."""
    taken = len(attribute_codes(hidden_size))
    return attribute_codes(hidden_size, taken + sum(GROUPS))[taken:]


def order_loss(
    visual: Tensor, labels: Tensor, text: Tensor, spoken: Tensor
) -> tuple[Tensor, Tensor]:
    """The hint's loss, and the share of visual tokens whose part's number is right.

    visual: [B, visual tokens, H] hidden states, labels: [B, visual tokens, 7];
    text: [B, S, H], spoken: [B, S].
    """
    codes = order_codes(visual.shape[-1])
    groups = _code_logits(visual, codes).split(GROUPS, dim=-1)
    losses = [_mean_loss(logits, labels[..., k]) for k, logits in enumerate(groups)]
    losses[1:] = [torch.stack(losses[1:]).mean()]
    losses.append(_mean_loss(_code_logits(text, codes[: GROUPS[0]]), spoken))
    asked = labels[..., 0] != NONE
    right = (groups[0].argmax(-1) == labels[..., 0])[asked].float().mean()
    return torch.stack(losses).sum(), right.detach()


def _code_logits(hidden: Tensor, codes: Tensor) -> Tensor:
    return _SHARPNESS * F.rms_norm(hidden, (hidden.shape[-1],)) @ codes.T


def _mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy where there is a label; 0 where there is none at all."""
    flat = logits.flatten(0, -2), labels.flatten()
    summed = F.cross_entropy(*flat, ignore_index=NONE, reduction="sum")
    return summed / (labels != NONE).sum().clamp(min=1)
