"""What a cache holds of a prompt, so that a later call can go on behind what is the same.

A second question about a clip begins with the same thousands of tokens. Whether it does is
decided by what arrives at the language model, embeddings and positions bit for bit, not by ids:
another clip of the same length has the same ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from sparrow_kernels.drafting.rows import RowPlan, RowRules
from sparrow_kernels.models.prompt import RequestPrompt

_SLOTS_AT_ONCE = 1024
_FEWEST = 16
"""A prefix shorter than this is not worth a second forward."""


@dataclass
class KeptPrompt:
    """One request's prompt, of which a cache holds keys and values."""

    marks: Tensor
    """`[n]` int64: what each slot was computed from, as a hash of its bits."""
    plan: RowPlan
    """The slots that a draft's rows were made from."""
    states: Tensor
    """`[R, L*H]` at `plan.before`."""
    clip_states: Tensor | None
    """`[C, H]` at `plan.clip`, where a draft reads them."""
    rules: RowRules

    def shared_with(self, marks: Tensor, plan: RowPlan, rules: RowRules) -> int:
        """How many slots another prompt can take over; it runs at least one of its own."""
        # Other rows need other states at most, and those that nobody has kept run again.
        if (rules.layer_ids, rules.clip_layer) != (self.rules.layer_ids, self.rules.clip_layer):
            return 0
        shortest = min(len(marks), len(self.marks))
        different = (marks[:shortest] != self.marks[:shortest]).nonzero()
        same = int(different[0, 0]) if len(different) else shortest
        # What its rows read and nobody has kept must run again, and so must its last slot: the
        # token behind it wants its state.
        unknown = plan.before[~torch.isin(plan.before, self.plan.before)]
        last = min([same - 1, *unknown[:1].tolist()])
        return last if last >= _FEWEST else 0

    def before(self, slot: int, plan: RowPlan) -> tuple[Tensor, Tensor | None]:
        """The states of another prompt's rows, and of its clip, that lie before `slot`."""
        wanted = plan.before[plan.before < slot]
        states = self.states[torch.searchsorted(self.plan.before, wanted)]
        clip_states = self.clip_states
        return states, None if clip_states is None else clip_states[self.plan.clip < slot]


def marks_of(prompt: RequestPrompt) -> Tensor:
    """`[n]` int64, equal where embeddings and positions are, bit for bit."""
    embeddings = prompt.embeddings[0]
    bits = embeddings.contiguous().view(torch.int16 if embeddings.itemsize == 2 else torch.int32)
    factors = _factors(bits.shape[1], bits.device)
    marks = [(part.long() * factors).sum(dim=1) for part in bits.split(_SLOTS_AT_ONCE)]
    positions = prompt.positions.reshape(-1, len(prompt.ids)).long()
    weights = _factors(len(positions) + 1, bits.device)[1:, None]
    return torch.cat(marks) * 31 + (positions * weights).sum(dim=0)


@cache
def _factors(count: int, device: torch.device) -> Tensor:
    """`[count]` odd int64, the same ones always; sums wrap around."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(-(2**62), 2**62, (count,), generator=generator)
    return (2 * drawn + 1).to(device)
