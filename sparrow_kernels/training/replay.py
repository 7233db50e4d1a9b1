"""How much a draft saves on a text that the target is known to write: no forward of the target.

A greedy target decides alone what is emitted, so its text and the states at it, of one pass, say
how every tree fares. Growth, acceptance and commit are decoding's own (`decoding.loop`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparrow_kernels.decoding import Step, TreeConfig, Verification, decode, first_committed
from sparrow_kernels.decoding.coins import Coins
from sparrow_kernels.decoding.loop import Cut
from sparrow_kernels.decoding.protocols import Tree
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.drafting.head import draft_head
from sparrow_kernels.drafting.rows import PromptRows, RowRules
from sparrow_kernels.drafting.state import DraftState
from sparrow_kernels.models.sequence import SequenceStates
from sparrow_kernels.ops.types import TreeLayout

_NEVER = -1


@dataclass
class KnownText:
    """A prompt and the target's greedy answer."""

    prompt: PromptRows
    """As the draft reads it."""
    tokens: Tensor
    """`[m]` int64 the answer, its stop id included where it came to one."""
    states: Tensor
    """`[m, L*H]` what the draft reads at the slot before each."""


def known_text(states: SequenceStates, prompt_length: int, rules: RowRules) -> KnownText:
    """A sequence that was run, prompt and greedy answer, as `rules` read it.

    Args:
        prompt_length: slots of the prompt.
    """
    plan = rules.plan(states.visual[:prompt_length])
    read = states.read(rules.layer_ids)
    clip_layer = rules.clip_layer
    prompt = rules.rows(
        plan,
        states.ids[:prompt_length],
        states.positions[..., :prompt_length],
        read[plan.before],
        states.embeddings[:prompt_length],
        None if clip_layer is None else states.inner[clip_layer][plan.clip],
    )
    return KnownText(prompt, states.ids[prompt_length:], read[prompt_length - 1 : -1])


class _ReplayTarget:
    """Implements `sparrow_kernels.decoding.Target` for one text; `prefix_lens` counts its tokens
    that are committed, and the caches hold nothing."""

    def __init__(self, text: KnownText, room: int) -> None:
        length = len(text.tokens)
        device = text.tokens.device
        self.keys = [torch.zeros(1, 1, length + 2 * room, 8, device=device)]
        self.values = [torch.zeros_like(self.keys[0])]
        self.prefix_lens = torch.zeros(1, dtype=torch.int32, device=device)
        # The state at token k's own slot is the one before token k + 1. Behind the end: zeros.
        behind = text.states.new_zeros((1 + room, text.states.shape[1]))
        self._states = torch.cat([text.states[1:], behind])
        self.following = torch.cat([text.tokens[1:], text.tokens.new_full((1 + room,), _NEVER)])

    def verify(self, tokens: Tensor, layout: TreeLayout) -> Verification:
        """States and, in the place of logits, the token after each node of the text's own path."""
        places = (self.prefix_lens[:, None] + layout.depth.clamp_min(0)).long()
        return Verification([self._states[places]], self.following[places][..., None])

    def enlarge(self, slots: int) -> bool:
        return False


class _Known:
    """Implements `Choose`: the target's token after a node is in what `verify` has said."""

    scores: Tensor | None = None

    def __call__(self, tree: Tree, logits: Tensor) -> Tensor:
        return logits[..., 0]

    def probs(self, logits: Tensor) -> Tensor:
        raise NotImplementedError("a text that is replayed was greedy")


class _Count:
    """Implements `Emission`: counts what each step emits, cut where the text ends."""

    def __init__(self, length: int, max_path: int) -> None:
        self._left = length - 1  # the first token comes from the prefill
        self._length = length
        self.histogram = [0] * (max_path + 1)

    @property
    def finished(self) -> bool:
        return self._left <= 0

    def take(self, emitted: Tensor) -> tuple[list[int], list[Cut]]:
        count = min(int(emitted[0, 0]), self._left)
        self.histogram[count] += 1
        self._left -= count
        return ([0] if self.finished else []), []

    def slots_for(self, tokens: int) -> int:
        return 0

    @property
    def new_token_room(self) -> int:
        return self._length


class _Untimed:
    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        yield


@torch.no_grad()
def replay(
    draft: SparrowDraft,
    embedding: nn.Module,
    lm_head: nn.Module,
    text: KnownText,
    tree: TreeConfig,
    banned: Sequence[int],
) -> list[int]:
    """The histogram of a greedy decoding of `text`: index k, the steps that emitted k tokens.

    Args:
        draft: in the dtype to run in; it is on the target's device.
        embedding, lm_head: the target's.
        banned: ids never drafted: stop ids, and placeholders of clips.
    """
    device = text.tokens.device
    config = draft.config
    network = draft.network
    like = network.fc.weight
    text = replace(text, states=text.states.to(like))
    target = _ReplayTarget(text, tree.total + tree.max_path)
    is_banned = torch.tensor(sorted(set(banned)), dtype=torch.int64, device=device)
    emission = _Count(len(text.tokens), tree.max_path)
    state = DraftState(
        network,
        _In(embedding, like),
        draft_head(network, _In(lm_head, like), is_banned, None, config.vocab_size),
        config.rope_theta,
        [text.prompt],
        emission.new_token_room,
        tree_slots=tree.draft_slots,
        max_path=tree.max_path,
        rules=config.row_rules(),
    )
    first = first_committed(text.tokens[:1], text.states[:1], tree.max_path)
    coins = Coins(1, tree.total, device, None)
    step = Step(target, state, tree, _Known(), coins, first)
    decode(step, target, state, emission, _Untimed())
    return emission.histogram


def mean_of(histogram: Sequence[int]) -> float:
    """Tokens that a step emitted, on average."""
    steps = sum(histogram)
    return sum(k * count for k, count in enumerate(histogram)) / steps if steps else 0.0


class _In(nn.Module):
    """A module of the target beside a draft of another dtype."""

    def __init__(self, inner: Any, like: Tensor) -> None:
        super().__init__()
        self._inner, self._like = inner, like

    @property
    def weight(self) -> Tensor:
        """Of the module."""
        return self._inner.weight

    def forward(self, value: Tensor) -> Tensor:
        if value.is_floating_point():
            value = value.to(self._inner.weight.dtype)
        return self._inner(value).to(self._like.dtype)
