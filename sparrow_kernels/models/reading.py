"""What a draft reads of its target's states: those of a prompt's rows, and those of a verify."""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.drafting.rows import PromptRows, RowPlan, RowRules
from sparrow_kernels.models.bridge.states import StateTap
from sparrow_kernels.models.families import Parts
from sparrow_kernels.models.kept import KeptPrompt
from sparrow_kernels.models.prompt import RequestPrompt


class StateReader:
    """Takes the states out of a call's target.

    Args:
        parts: a private view's, which runs prompts.
        verifying: those of the view that verifies, where it is another.
        rules: which states, and how a draft reads prompts.
    """

    def __init__(self, parts: Parts, verifying: Parts | None, rules: RowRules) -> None:
        self.rules = rules
        top = parts.text_config.num_hidden_layers
        self.layer_ids = rules.layer_ids or (top,)
        wanted = set(self.layer_ids)
        if rules.clip_layer is not None:
            wanted.add(rules.clip_layer)
        self.tap = StateTap(parts.language_model, wanted, top)
        self._of_verify = self.tap
        if verifying is not None:
            self._of_verify = StateTap(verifying.language_model, wanted, top)

    def verified(self, top: Tensor) -> list[Tensor]:
        """`[B, T, H]` of each layer after a verify, whose top states are `top`."""
        return [self._of_verify.of(each, top) for each in self.layer_ids]


class PromptReading:
    """One prompt's states, forward by forward.

    Args:
        plan: the slots that its rows are made from.
        start: slots that an earlier call had run, which `source` has kept the states of.
    """

    def __init__(
        self,
        reader: StateReader,
        prompt: RequestPrompt,
        plan: RowPlan,
        start: int,
        source: KeptPrompt | None,
    ) -> None:
        self._reader, self._prompt, self._plan = reader, prompt, plan
        self._states: list[Tensor] = []
        self._clip_states: list[Tensor] = []
        # The token behind the prompt reads the state of its last slot.
        self._state_slots = torch.cat([plan.before, plan.before.new_tensor([len(prompt.ids) - 1])])
        is_read = reader.rules.clip_layer is not None
        self._clip_slots = plan.clip if is_read else plan.clip[:0]
        if source is not None:
            states, clip_states = source.before(start, plan)
            self._states.append(states)
            if clip_states is not None:
                self._clip_states.append(clip_states)

    def expect(self, begin: int, end: int) -> Tensor:
        """The next forward runs the slots from `begin` to `end`; its rows `[m]` that are read, the
        last one among them."""
        slots = torch.cat([self._state_slots, self._clip_slots])
        slots = slots[(slots >= begin) & (slots < end)].unique()
        self._span, self._taken = (begin, end), slots
        self._reader.tap.rows = slots - begin
        return torch.cat([slots, slots.new_tensor([end - 1])]).unique() - begin

    def take(self, top: Tensor) -> None:
        """Take what that forward has left; its top states are `top` `[1, n, H]`."""
        tap, rules = self._reader.tap, self._reader.rules
        parts = [tap.of(each, top)[0] for each in self._reader.layer_ids]
        states = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        self._states.append(states[self._places(self._state_slots)])
        if rules.clip_layer is not None:
            clip_states = tap.of(rules.clip_layer, top)[0]
            self._clip_states.append(clip_states[self._places(self._clip_slots)])
        tap.rows = None
        tap.taken.clear()

    def _places(self, slots: Tensor) -> Tensor:
        """Where those of `slots` that the forward ran are among what was taken."""
        begin, end = self._span
        return torch.searchsorted(self._taken, slots[(slots >= begin) & (slots < end)])

    def result(self) -> tuple[PromptRows, Tensor]:
        """The prompt's rows, and `[1, L*H]` the states of its last slot."""
        prompt, states = self._prompt, torch.cat(self._states)
        self._states.clear()
        rows = self._reader.rules.rows(
            self._plan,
            prompt.ids,
            prompt.positions.select(-2, 0),
            states[:-1],
            prompt.embeddings[0],
            torch.cat(self._clip_states) if self._clip_states else None,
        )
        return rows, states[-1:]

    def kept(self, marks: Tensor, rows: PromptRows) -> KeptPrompt:
        """What a later call may take over."""
        clip_states = rows.clip if self._reader.rules.clip_layer is not None else None
        return KeptPrompt(marks, self._plan, rows.states, clip_states, self._reader.rules)
