"""Foreign drafts, by the documented keys: what they compute once loaded, against plain formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from draft_files import FORMATS, GROUPED_HEADS, WIDE_HEADS, Sizes, draft_files, write
from draft_oracle import draft_logits
from draft_prompt import Prompt
from torch import Tensor, nn

from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.drafting.head import draft_head
from sparrow_kernels.drafting.state import DraftState
from sparrow_kernels.models.drafts.derivation import TargetFacts
from sparrow_kernels.models.drafts.files import read_files
from sparrow_kernels.models.drafts.load import convert, switch
from sparrow_kernels.ops.types import Acceptance

SIZES = {"wide heads": WIDE_HEADS, "grouped heads": GROUPED_HEADS}
VISUAL = [0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0]
"""Two clips."""
CHAIN = [5, 11, 23]
REFRESHES = ([31], [7, 12, 40], [3])
MOST = 3


class Setting:
    """A target's vocabulary, a prompt with two clips, and what was emitted behind it."""

    def __init__(self, sizes: Sizes) -> None:
        random = torch.Generator().manual_seed(3)
        hidden, layers = sizes.hidden, sizes.target_layers

        def noise(*shape: int) -> Tensor:
            return torch.randn(shape, generator=random)

        self.sizes = sizes
        self.embedding, self.lm_head = noise(sizes.vocab, hidden), noise(sizes.vocab, hidden) / 5
        visual = torch.tensor(VISUAL, dtype=torch.bool)
        tokens = torch.randint(sizes.vocab, (len(visual),), generator=random)
        tokens[visual] = 1
        embeddings = self.embedding[tokens].clone()
        embeddings[visual] = noise(int(visual.sum()), hidden)
        states = [embeddings, *(noise(len(visual), hidden) for _ in range(layers))]
        self.prompt = Prompt(tokens, visual, embeddings, states, _mrope(visual))
        self.emitted = []
        for refresh in REFRESHES:
            inner = [noise(len(refresh), hidden) for _ in range(layers + 1)]
            self.emitted.append((refresh, inner))
        self.emitted[0] = (REFRESHES[0], [each[-1:] for each in states])

    @property
    def facts(self) -> TargetFacts:
        sizes = self.sizes
        vocabulary = (self.embedding, self.lm_head)
        family = "qwen2_5_vl"
        return TargetFacts(family, sizes.target_layers, sizes.hidden, sizes.vocab, *vocabulary)


def _mrope(visual: Tensor) -> Tensor:
    """`[3, n]`: text counts on, a clip's slots spread over time, height and width."""
    columns, following = [], 0
    for slot, is_visual in enumerate(visual.tolist()):
        if not is_visual:
            columns.append((following,) * 3)
            following += 1
        elif not visual[slot - 1]:
            run = int(visual[slot:].int().cumprod(0).sum())
            cells = [(n // 2, n % 2, (n + 1) % 2) for n in range(run)]
            columns += [tuple(following + each for each in cell) for cell in cells]
            following += 1 + max(max(cell) for cell in cells)
    return torch.tensor(columns).T


@torch.no_grad()
def outputs_of(draft: SparrowDraft, setting: Setting) -> list[Tensor]:
    """Logits `[V]` after each refresh and each token of the chain, as decoding computes them."""
    rules, prompt = draft.config.row_rules(), setting.prompt
    ids = list(rules.layer_ids or [setting.sizes.target_layers])
    plan = rules.plan(prompt.visual)
    states = torch.cat([prompt.states[each] for each in ids], dim=-1)
    middle = None if rules.clip_layer is None else prompt.states[rules.clip_layer][plan.clip]
    rows = rules.rows(
        plan, prompt.tokens, prompt.positions, states[plan.before], prompt.embeddings, middle
    )
    vocabulary = setting.sizes.vocab
    lm_head = nn.Linear(setting.sizes.hidden, vocabulary, bias=False)
    lm_head.weight = nn.Parameter(setting.lm_head)
    network = draft.float().network
    head = draft_head(network, lm_head, torch.empty(0, dtype=torch.int64), None, vocabulary)
    state = DraftState(
        network,
        nn.Embedding.from_pretrained(setting.embedding),
        head,
        draft.config.rope_theta,
        [rows],
        new_tokens=8,
        tree_slots=len(CHAIN),
        max_path=MOST,
        rules=rules,
    )
    found = []
    for tokens, inner in setting.emitted:
        path = torch.zeros(1, MOST, len(ids) * setting.sizes.hidden)
        path[0, : len(tokens)] = torch.cat([inner[each] for each in ids], dim=-1)
        padded = torch.tensor([tokens + [-1] * (MOST - len(tokens))])
        places = torch.arange(MOST, dtype=torch.int32)[None]
        accepted = torch.tensor([len(tokens) - 1], dtype=torch.int32)
        output = state.refresh(Acceptance(places, accepted, padded), path)
        found.append(state.logits(output)[0])
        for depth, token in enumerate(CHAIN, start=1):
            bits = torch.tensor([[[(1 << depth) - 1]]])
            grown = state.grow(torch.tensor([[token]]), output[:, None], depth, depth - 1, bits)
            output = grown[:, 0]
            found.append(state.logits(output)[0])
    return found


@pytest.mark.parametrize("positions", ["compact", "sequence", "mrope"])
@pytest.mark.parametrize("sees_clip", ["nothing", "trained"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", FORMATS)
def test_a_draft_computes_what_its_producer_s_does(
    tmp_path: Path, name: str, sizes: str, sees_clip: str, positions: Any
) -> None:
    """Prefill, then three refreshes of 1, 3 and 1 tokens, each with three grown levels."""
    setting = Setting(SIZES[sizes])
    files = draft_files(name, setting.sizes, embedding=setting.embedding)
    draft = convert(read_files(write(files, tmp_path)), setting.facts)
    switch(draft.config, positions=positions, sees_clip=sees_clip)
    expected = draft_logits(
        files,
        setting.embedding.double(),
        setting.lm_head.double(),
        setting.prompt,
        sees_clip=sees_clip == "trained",
        positions=positions,
        slice_clip=name == "sparrow",
        layer_ids=None,
        emitted=setting.emitted,
        chain=CHAIN,
    )
    for ours, theirs in zip(outputs_of(draft, setting), expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)
