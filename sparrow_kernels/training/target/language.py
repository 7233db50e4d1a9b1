"""Captions and questions over ready visual tokens: batches, forward pass, loss.

A batch holds clips of one shape. Each clip's visual prefix is run once; the caption and the
questions about it all attend to that prefix and none to one another, so that every step trains
every kind of question for little more than the caption's cost.

Clips of 24k tokens are too dear to train on. What is hard about them is the crowd: the softmax is
shared by many more visual tokens than in training. n copies of a key weigh as much as one key with
log n added to its score, so smaller clips are trained with such an addition on their visual keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from transformers import DynamicCache, Qwen2_5_VLForConditionalGeneration

from sparrow_kernels.embedded.captions import Exchange
from sparrow_kernels.embedded.clips import TOKENS_PER_TILE, ClipScript
from sparrow_kernels.embedded.recipe import LanguageStage
from sparrow_kernels.embedded.worlds import EASY, World
from sparrow_kernels.models.bridge.names import cache_keyword
from sparrow_kernels.training.small_target import END, PAD, TOKENS_PER_SECOND, VIDEO
from sparrow_kernels.training.target.clip_features import clip_features
from sparrow_kernels.training.target.hint import LAYER, NONE, hint_loss, part_labels

_HEAD = "<|im_start|>user\n<|vision_start|>"
_TAIL = "<|vision_end|>"
CAPTION = "caption"  # a kind: a style drawn for each clip
_LOWERED = 0.2  # share of questions asked without capitals
_LABEL_NONE = NONE
# A caption has twenty times the tokens of a short answer; unweighted, questions stay unlearnt.
_SHORT_ANSWER_WEIGHT = 4.0
_MOST_CROWDED = 4200  # visual tokens; above, the mask over the prefix grows too large


@dataclass(frozen=True)
class ClipBatch:
    """B clips of one shape, P prefix tokens, S tokens of exchanges a clip.

    visual: [B, visual tokens, H]; prefix_ids: [P]; prefix_positions: [3, P];
    text_ids, labels, text_positions, segments: [B, S]. A segment number marks the tokens of one
    exchange; `caption` marks labels that are content words of a caption. crowd: how many copies
    of itself each visual token stands for. part_labels: [B, visual tokens] and spoken: [B, S] are
    what the world's hint asks, see `hint`.
    """

    world: World

    visual: Tensor
    prefix_ids: Tensor
    prefix_positions: Tensor
    text_ids: Tensor
    labels: Tensor
    text_positions: Tensor
    segments: Tensor
    caption: Tensor
    crowd: float
    part_labels: Tensor
    spoken: Tensor


class BatchMaker:
    """Draws batches for a stage. The batch of a step depends on (seed, stage, step) alone."""

    def __init__(
        self, tokenizer: Tokenizer, features: Tensor, seed: int, world: World = EASY
    ) -> None:
        self.world = world
        self.tokenizer = tokenizer
        self.features = features
        self.seed = seed
        pieces = [tokenizer.encode(" " + word).ids for word in sorted(world.content_words)]
        self.content_ids = torch.tensor([ids[0] for ids in pieces])
        self.short_kinds = tuple(kind for kind in world.questions if kind not in world.styles)

    def __call__(self, stage: LanguageStage, step: int) -> ClipBatch:
        rng = np.random.default_rng([self.seed, step, *stage.name.encode()])
        quiz = self.world.recipe.quiz if rng.random() < stage.quiz else None
        lengths, parts = (
            (stage.lengths, stage.parts) if quiz is None else (quiz.lengths, quiz.parts)
        )
        shares = np.array([length.share for length in lengths])
        length = lengths[rng.choice(len(shares), p=shares / shares.sum())]
        # Log-uniform: as many short clips as long ones.
        seconds = round(_log_uniform(*length.seconds, rng))
        visual = seconds * TOKENS_PER_TILE * length.tiles**2
        clips = int(np.clip(stage.tokens // visual, 1, stage.most_clips))
        most = min(parts[1], seconds)
        scripts = [
            self.world.random_script(
                length.tiles,
                seconds,
                int(rng.integers(min(parts[0], most), most + 1)),
                int(rng.integers(2**31, 2**62)),
            )
            for _ in range(clips)
        ]
        crowd = _log_uniform(1.0, stage.crowd, rng) if visual <= _MOST_CROWDED else 1.0
        if quiz is not None:
            return self._batch(scripts, self.short_kinds * quiz.questions, crowd, rng)
        return self._batch(scripts, (CAPTION, *self.short_kinds * stage.questions), crowd, rng)

    def _batch(
        self,
        scripts: list[ClipScript],
        kinds: tuple[str, ...],
        crowd: float,
        rng: np.random.Generator,
    ) -> ClipBatch:
        head, tail = self.tokenizer.encode(_HEAD).ids, self.tokenizer.encode(_TAIL).ids
        shape = scripts[0]
        prefix_ids = torch.tensor(head + [VIDEO] * shape.visual_tokens + tail)
        positions = prefix_positions(len(head), shape.seconds, 2 * shape.tiles, len(tail))
        start = int(positions[0, -1]) + 1
        rows = [self._exchanges(script, start, kinds, rng) for script in scripts]
        width = max(len(row[0]) for row in rows)
        padding = (PAD, _LABEL_NONE, start, -1, NONE)
        text_ids, labels, text_positions, segments, spoken = (
            torch.tensor([row[k] + [padding[k]] * (width - len(row[k])) for row in rows])
            for k in range(len(padding))
        )
        described = (segments == 0) & (kinds[0] in (CAPTION, *self.world.styles))
        shown = [clip_features(script, self.features, rng, self.world) for script in scripts]
        return ClipBatch(
            self.world,
            torch.stack(shown),
            prefix_ids,
            positions,
            text_ids,
            labels,
            text_positions,
            segments,
            torch.isin(labels, self.content_ids) & described,
            crowd,
            torch.stack([part_labels(self.world, script) for script in scripts]),
            spoken,
        )

    def _exchanges(
        self, script: ClipScript, start: int, kinds: tuple[str, ...], rng: np.random.Generator
    ) -> tuple[list[int], ...]:
        """(ids, labels, positions, segments, spoken) of one exchange of each of `kinds`."""
        ids: list[int] = []
        labels: list[int] = []
        positions: list[int] = []
        segments: list[int] = []
        spoken: list[int] = []
        for number, kind in enumerate(kinds):
            exchange = self.world.ask(self._style(rng) if kind == CAPTION else kind, script, rng)
            question, answer = self._encode(exchange, rng.random() < _LOWERED)
            spoken += [NONE] * (len(question) - 1)
            spoken += self._spoken(exchange, answer, len(script.parts))
            ids += question + answer
            # The label of a token is the one after it.
            labels += [_LABEL_NONE] * (len(question) - 1) + answer + [_LABEL_NONE]
            positions += range(start, start + len(question) + len(answer))
            segments += [number] * (len(question) + len(answer))
        return ids, labels, positions, segments, spoken

    def _style(self, rng: np.random.Generator) -> str:
        styles = tuple(self.world.styles)
        if len(styles) == 1:
            return styles[0]  # and draws nothing
        return str(rng.choice(styles, p=tuple(self.world.styles.values())))

    def _spoken(self, exchange: Exchange, answer: list[int], parts: int) -> list[int]:
        if self.world.spoken_parts is None:
            return [NONE] * (len(answer) + 1)
        words = [self.tokenizer.id_to_token(token) or "" for token in answer]
        said = self.world.spoken_parts(exchange, words, parts)
        return [NONE if part is None else part for part in said]

    def _encode(self, exchange: Exchange, lowered: bool) -> tuple[list[int], list[int]]:
        question = exchange.question.lower() if lowered else exchange.question
        turn = f"{question}<|im_end|>\n<|im_start|>assistant\n"
        return self.tokenizer.encode(turn).ids, [*self.tokenizer.encode(exchange.answer).ids, END]


def _log_uniform(low: float, high: float, rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def prefix_positions(head: int, seconds: int, edge: int, tail: int) -> Tensor:
    """M-RoPE positions [3, P] of `head` text tokens, a clip of edge x edge tokens, `tail` tokens.

    As `get_rope_index` gives them: text goes on after the clip's spatial positions.
    """
    time = torch.arange(seconds) * TOKENS_PER_SECOND
    side = torch.arange(edge)
    clip = torch.stack(torch.meshgrid(time, side, side, indexing="ij")).flatten(1) + head
    before = torch.arange(head).expand(3, -1)
    after = torch.arange(head + edge, head + edge + tail).expand(3, -1)
    return torch.cat([before, clip, after], dim=1)


def language_loss(
    model: Qwen2_5_VLForConditionalGeneration, batch: ClipBatch, hint: float = 0.0
) -> tuple[Tensor, Tensor]:
    """(loss, shares right), NaN where none was asked.

    shares: of captions' content words, of short answers, and of visual tokens whose part's number
    shows halfway up. hint: weight of the hint's loss in the whole.
    """
    said = batch.labels != _LABEL_NONE
    text_hidden, *halfway = _hidden(model, batch)
    logits = model.lm_head(text_hidden[said])
    labels = batch.labels[said]
    captioned = batch.caption[said]
    described = bool(captioned.any())
    short = batch.segments[said] >= int(described)
    weights = torch.where(short, _SHORT_ANSWER_WEIGHT, 1.0)
    losses = F.cross_entropy(logits, labels, reduction="none")
    with torch.no_grad():
        right = logits.argmax(-1) == labels
        content = right[captioned].float().mean()
        wrong = torch.zeros_like(said).masked_scatter(said, ~right)
        answers = 1 - _any_by_segment(wrong, batch.segments)[:, int(described) :].mean()
    loss = (weights * losses).sum() / weights.sum()
    numbers = torch.tensor(torch.nan)
    if hint:
        asked, numbers = hint_loss(
            batch.world, halfway[0], batch.part_labels, halfway[1], batch.spoken
        )
        loss = loss + hint * asked
    return loss, torch.stack([content, answers, numbers])


def _hidden(
    model: Qwen2_5_VLForConditionalGeneration, batch: ClipBatch
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states: the exchanges' last, the clips' halfway up, the exchanges' halfway up."""
    text = model.model.language_model
    embed = text.embed_tokens
    clips = len(batch.visual)
    is_video = batch.prefix_ids == VIDEO
    prefix = embed(batch.prefix_ids).repeat(clips, 1, 1)
    prefix[:, is_video] = batch.visual
    crowding = is_video * math.log(batch.crowd)
    cached = {cache_keyword(text): DynamicCache(), "use_cache": True, "output_hidden_states": True}
    shown = text(
        inputs_embeds=prefix,
        position_ids=batch.prefix_positions[:, None].expand(-1, clips, -1),
        attention_mask=_causal_mask(crowding) if batch.crowd > 1 else None,
        **cached,
    )
    said = text(
        inputs_embeds=embed(batch.text_ids),
        position_ids=batch.text_positions.expand(3, -1, -1),
        attention_mask=_segment_mask(batch.segments, crowding),
        **cached,
    )
    layer = min(LAYER, len(shown.hidden_states) - 1)
    halfway = shown.hidden_states[layer][:, is_video], said.hidden_states[layer]
    return said.last_hidden_state, *halfway


def _any_by_segment(marked: Tensor, segments: Tensor) -> Tensor:
    """[B, S] -> [B, exchanges]: 1 where any token of an exchange is marked."""
    found = torch.zeros(len(segments), int(segments.max()) + 1)
    padded = segments < 0
    return found.scatter_reduce(
        1, segments.masked_fill(padded, 0), (marked & ~padded).float(), "amax"
    )


def _causal_mask(crowding: Tensor) -> Tensor:
    """Additive, [1, 1, P, P]."""
    width = len(crowding)
    later = torch.ones(width, width, dtype=torch.bool).triu(1)
    return crowding.expand(width, -1).masked_fill(later, -torch.inf)[None, None]


def _segment_mask(segments: Tensor, crowding: Tensor) -> Tensor:
    """Additive, [B, 1, S, P + S]: the prefix, and what stands earlier in one's own exchange."""
    width = segments.shape[1]
    earlier = torch.ones(width, width, dtype=torch.bool).tril()
    own = (segments[:, :, None] == segments[:, None, :]) & earlier
    text = torch.zeros(own.shape).masked_fill(~own, -torch.inf)
    prefix = crowding.expand(len(segments), width, -1)
    return torch.cat([prefix, text], dim=-1)[:, None]
