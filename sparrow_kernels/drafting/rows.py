"""What a draft reads of a prompt: which slots become rows, from which states, at which positions.

The same in training and while decoding. A row for x_k, k >= 1, reads the target's state at slot
k - 1, also where that slot is a clip's. What of the clip itself becomes rows is `sees_clip`:

    nothing       no slot of it: the cost of a step follows the text alone (Sparrow, HiViS)
    states        each slot, as text: the clip's own embedding and the state before (EAGLE-2)
    placeholders  each slot, as text: the placeholder's embedding and the state before (EAGLE-3)
    embeddings    each slot, its embedding in the place of what `fc` makes (MSD)
    middle        each slot, its state of half the depth, normed, in that place (Sparrow's training)
    adaptor       a few rows a clip, and a shift of the text behind it (ViSpec)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

SIGHTS = ("nothing", "states", "placeholders", "embeddings", "middle", "adaptor")
POSITIONS = ("compact", "sequence", "mrope")
_BESIDE_FC = ("embeddings", "middle", "adaptor")


class PromptRows(NamedTuple):
    """One request's prompt, as a draft reads it. Rows are in no order: their positions say it."""

    tokens: Tensor
    """`[R]` int64 of the rows that go through `fc`."""
    states: Tensor
    """`[R, state_width]` the target's before each."""
    positions: Tensor
    """`[R]` int64, or `[3, R]` of M-RoPE where rows of a clip are among them."""
    next_position: int
    """Of the row behind the prompt."""
    embeddings: Tensor | None = None
    """`[R, H]` where they are not those of the tokens: a clip's own."""
    clip: Tensor | None = None
    """`[C, H]` what stands for a clip's slots beside `fc`."""
    clip_positions: Tensor | None = None
    """`[C]` int64 or `[3, C]`."""
    clip_runs: tuple[int, ...] = ()
    """Slots of each run in `clip`."""
    runs_before: Tensor | None = None
    """`[R]` int64: how many runs lie before each row."""


@dataclass
class RowPlan:
    """The slots that one prompt's rows are made from, before there are states."""

    rows: Tensor
    """`[R]` slots whose tokens go through `fc`."""
    before: Tensor
    """`[R]` the slot of the state that each is paired with."""
    clip: Tensor
    """`[C]` slots that stand beside `fc`."""


@dataclass(frozen=True)
class RowRules:
    """How a draft reads prompts.

    Args:
        layer_ids: indices in transformers' tuple of hidden states, 0 the embedding, of the states
            a row reads; None for the top state alone.
        sees_clip: one of `SIGHTS`.
        positions: "compact" counts the draft's own rows, "sequence" all slots of the prompt,
            "mrope" goes by the target's own positions of three axes.
        slice_clip: pair the first text row behind a clip with the state before the clip.
        middle_layer: as `layer_ids`, the state of a clip's slots where "middle" is seen.
        adaptor_rows: rows that an adaptor makes of a clip.
        mrope_section, mrope_interleaved: see `rotary`.
    """

    layer_ids: tuple[int, ...] | None = None
    sees_clip: str = "nothing"
    positions: str = "compact"
    slice_clip: bool = False
    middle_layer: int = 0
    adaptor_rows: int = 0
    mrope_section: tuple[int, ...] | None = None
    mrope_interleaved: bool = False

    @property
    def has_clip_rows(self) -> bool:
        """Whether a clip has rows that do not go through `fc`."""
        return self.sees_clip in _BESIDE_FC

    @property
    def clip_layer(self) -> int | None:
        """The layer whose states stand for a clip's slots, as `layer_ids` count."""
        return self.middle_layer if self.sees_clip == "middle" else None

    def plan(self, visual: Tensor) -> RowPlan:
        """The slots for a prompt whose slots `visual` `[n]` bool are a clip's or an image's."""
        if self.sees_clip in ("states", "placeholders"):
            rows = torch.arange(1, len(visual), device=visual.device)
            return RowPlan(rows, rows - 1, rows[:0])
        text = (~visual).nonzero()[:, 0]
        rows = text[text > 0]
        if self.slice_clip and self.sees_clip == "nothing":
            return RowPlan(text[1:], text[:-1], text[:0])
        clip = visual.nonzero()[:, 0] if self.has_clip_rows else rows[:0]
        return RowPlan(rows, rows - 1, clip)

    def rows(
        self,
        plan: RowPlan,
        ids: Tensor,
        positions: Tensor,
        states: Tensor,
        embeddings: Tensor,
        clip_states: Tensor | None = None,
    ) -> PromptRows:
        """The rows of a prompt.

        Args:
            ids: `[n]` int64.
            positions: `[axes, n]` or `[n]` the target's own.
            states: `[R, state_width]` at `plan.before`.
            embeddings: `[n, H]` what the target's first layer read.
            clip_states: `[C, H]` of the middle layer at `plan.clip`.
        """
        own, clip_own, following = self._positions(plan, len(ids), positions)
        runs, before = _runs(plan)
        sees_embeddings = self.sees_clip == "states"
        clip = None
        if len(plan.clip):
            clip = clip_states if clip_states is not None else embeddings[plan.clip]
        return PromptRows(
            ids[plan.rows],
            states,
            own,
            following,
            embeddings[plan.rows] if sees_embeddings else None,
            clip,
            None if clip is None else clip_own,
            runs,
            before,
        )

    def _positions(
        self, plan: RowPlan, length: int, positions: Tensor
    ) -> tuple[Tensor, Tensor, int]:
        """Those of the rows and of the clip's slots, and the one behind the prompt."""
        if self.positions == "sequence":
            return plan.rows, plan.clip, length
        if self.positions == "mrope":
            axes = positions.reshape(-1, length)
            following = int(axes[0, -1]) + 1
            if self.mrope_section is None or self.sees_clip == "nothing":
                axes = axes[0]  # a text token's are the same on all axes
            return axes[..., plan.rows], axes[..., plan.clip], following
        counted = torch.zeros(length, dtype=torch.int64, device=plan.rows.device)
        counted[plan.rows] = 1
        clip = self._adapted(plan) if self.sees_clip == "adaptor" else plan.clip
        counted[clip] = 1
        ranks = counted.cumsum(0) - 1
        return ranks[plan.rows], ranks[plan.clip], len(plan.rows) + len(clip)

    def _adapted(self, plan: RowPlan) -> Tensor:
        """The last slots of each run, where an adaptor's rows are put."""
        runs, _ = _runs(plan)
        kept = [run[len(run) - min(self.adaptor_rows, len(run)) :] for run in plan.clip.split(runs)]
        return torch.cat(kept) if kept else plan.clip


def _runs(plan: RowPlan) -> tuple[tuple[int, ...], Tensor | None]:
    """Lengths of the runs of neighbouring clip slots, and the runs before each row."""
    clip = plan.clip
    if len(clip) == 0:
        return (), None
    begins = torch.cat([clip.new_zeros(1), (clip.diff() != 1).nonzero()[:, 0] + 1])
    ends = torch.cat([begins[1:], begins.new_tensor([len(clip)])])
    return tuple((ends - begins).tolist()), torch.searchsorted(clip[begins], plan.rows)


TEXT_ALONE = RowRules()
"""How a draft of our own training reads: text rows, of the top state, counted one by one."""
