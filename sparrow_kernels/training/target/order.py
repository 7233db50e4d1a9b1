"""A hint for the lower layers: which part a visual token belongs to, and what was shown before.

Nothing drawn tells a part's number. It can be worked out from the order of the frames, step by
step: what did the second before show, was there a cut, how many cuts so far? Left alone, the model
finds these steps late or never. So halfway up, its visual tokens are asked for the results, along
fixed codes of their own, as the vision tower is asked for attributes (see `vision`).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sparrow_kernels.embedded.clips import TOKENS_PER_TILE, ClipScript, hidden_tiles
from sparrow_kernels.embedded.world import ATTRIBUTE_COUNTS, MAX_PARTS
from sparrow_kernels.training.target.clip_features import in_frame_order
from sparrow_kernels.training.target.vision import attribute_codes

LAYER = 4
"""The hint is given to what enters this layer (from 0)."""
# The part's number, then the attributes of the part before.
GROUPS = (MAX_PARTS, *ATTRIBUTE_COUNTS)
_NONE = -100
_SHARPNESS = 2.0


def order_labels(script: ClipScript) -> Tensor:
    """What each visual token is asked, [visual_tokens, 7], -100 where nothing.

    Every token of a scene is asked for the number of its part; those of the first second of a part
    also for the attributes of the part before. Distractors are asked nothing.
    """
    rows = []
    before = np.full(len(ATTRIBUTE_COUNTS), _NONE)
    for number, part in enumerate(script.parts):
        asked = np.full((part.seconds, len(GROUPS)), _NONE)
        asked[:, 0] = number
        asked[0, 1:] = before
        rows.append(asked)
        before = np.array(part.attributes)
    seconds = torch.from_numpy(np.concatenate(rows))
    shape = (script.seconds, script.tiles, script.tiles, TOKENS_PER_TILE, len(GROUPS))
    labels = seconds[:, None, None, None].expand(shape)
    hidden = torch.from_numpy(hidden_tiles(script))[None, :, :, None, None]
    return in_frame_order(labels.masked_fill(hidden, _NONE))


def order_codes(hidden_size: int) -> Tensor:
    """Orthonormal rows [sum(GROUPS), H], orthogonal to those of the vision tower too."""
    taken = len(attribute_codes(hidden_size))
    return attribute_codes(hidden_size, taken + sum(GROUPS))[taken:]


def order_loss(hidden: Tensor, labels: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states [B, visual tokens, H] and their labels -> (loss, share of right numbers)."""
    unit = F.rms_norm(hidden, (hidden.shape[-1],)).flatten(0, 1)
    groups = (_SHARPNESS * unit @ codes.T).split(GROUPS, dim=-1)
    flat = labels.flatten(0, 1)
    losses = [
        F.cross_entropy(logits, flat[:, k], ignore_index=_NONE, reduction="sum")
        / (flat[:, k] != _NONE).sum().clamp(min=1)
        for k, logits in enumerate(groups)
    ]
    asked = flat[:, 0] != _NONE
    right = (groups[0].argmax(-1) == flat[:, 0])[asked].float().mean()
    return losses[0] + torch.stack(losses[1:]).mean(), right.detach()
