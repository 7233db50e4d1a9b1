"""Models of a size and steps of a kind, ready to be timed by `bench.step`."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor
from transformers import DynamicCache

from sparrow_kernels.decoding import Coins, Step, TreeConfig, first_committed
from sparrow_kernels.decoding.graphs import GraphedStep
from sparrow_kernels.decoding.loop import StepParts
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.drafting.head import DraftHead
from sparrow_kernels.drafting.rows import PromptRows
from sparrow_kernels.drafting.state import DraftState
from sparrow_kernels.models.bridge.names import cache_keyword
from sparrow_kernels.models.families import Parts
from sparrow_kernels.models.generate import ROOT_ALONE
from sparrow_kernels.models.prompt import RequestPrompt
from sparrow_kernels.models.target import TargetState

TREES = ("25-5-8", "30-4-8", "48-5-10")
SLOTS = (500, 1_500, 6_000, 17_000, 25_000)
TEXT_ROWS = 300

_SEVEN_B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
}
_TINY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
}


class Scale(NamedTuple):
    """What is measured."""

    text: dict[str, int]
    vocabulary: dict[str, int]
    slots: tuple[int, ...]
    trees: tuple[str, ...]
    repeats: int
    dtype: torch.dtype


FULL = Scale(
    _SEVEN_B,
    {"qwen2_5_vl": 152_064, "llava_onevision": 152_000},
    SLOTS,
    TREES,
    20,
    torch.bfloat16,
)
TINY = Scale(
    _TINY, {"qwen2_5_vl": 512, "llava_onevision": 512}, (40, 90), TREES[:1], 2, torch.float32
)


def build(family: str, scale: Scale, device: torch.device) -> Any:
    """A target of that shape with random weights and next to no vision tower."""
    vocabulary = scale.vocabulary[family]
    text: dict[str, Any] = {**scale.text, "vocab_size": vocabulary}
    ids: dict[str, Any] = {"image_token_id": vocabulary - 1, "video_token_id": vocabulary - 2}
    if family == "qwen2_5_vl":
        head_dim = text["hidden_size"] // text["num_attention_heads"]
        rest = (head_dim // 2 - head_dim // 8) // 2
        sections = [head_dim // 2 - 2 * rest, rest, rest]
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
        config: Any = transformers.Qwen2_5_VLConfig(
            text_config={**text, "rope_parameters": rope},
            vision_config={"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32},
            **ids,
        )
    else:
        config = transformers.LlavaOnevisionConfig(
            vision_config=transformers.SiglipVisionConfig(
                hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
            ),
            text_config=transformers.Qwen2Config(**text),
            image_token_index=ids["image_token_id"],
            video_token_index=ids["video_token_id"],
        )
    config._attn_implementation = "sdpa"
    before = torch.get_default_dtype()
    torch.set_default_dtype(scale.dtype)
    try:
        with device:
            model = transformers.AutoModelForImageTextToText.from_config(config, dtype=scale.dtype)
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


class Way(NamedTuple):
    """A way to decode."""

    name: str
    tree: str | None = None
    """None: plainly."""
    vocabulary: int | None = None
    """Ids that may be drafted, None for all."""
    int8: bool = False
    """Whether the draft's weights have 8 bits."""
    compiled: bool = False
    """Whether the target's layers are compiled."""


def as_it_comes(model: Any, slots: int, repeats: int) -> float:
    """Milliseconds of transformers' own step: one token, its cache, its attention."""
    text, language_model = model.config.get_text_config(), model.model.language_model
    head_dim = text.hidden_size // text.num_attention_heads
    cache = DynamicCache()
    weight = model.get_input_embeddings().weight
    for layer in range(text.num_hidden_layers):
        shape = (1, text.num_key_value_heads, slots, head_dim)
        cache.update(_noise(shape, weight), _noise(shape, weight), layer)
    keyword = cache_keyword(language_model)
    token = torch.zeros((1, 1), dtype=torch.int64, device=weight.device)

    def step() -> None:
        positions = torch.full((1, 1), slots, device=weight.device)
        if "mrope_section" in text.rope_parameters:
            positions = positions.expand(3, 1, 1)
        hidden = language_model(
            inputs_embeds=model.get_input_embeddings()(token),
            position_ids=positions,
            use_cache=True,
            **{keyword: cache},
        ).last_hidden_state
        token.copy_(model.lm_head(hidden).argmax(dim=-1))

    return _median_ms([step], repeats, weight.device)[0]


def filled(model: Any, slots: int, capacity: int, compiled: bool) -> TargetState:
    """A target whose cache holds `slots` slots of noise."""
    parts = Parts(model).private()
    target = TargetState(parts, 1, capacity, compiled)
    ids = torch.zeros(2, dtype=torch.int64, device=model.device)
    axes = parts.family.position_axes
    positions = torch.arange(2, device=model.device)[None]
    positions = positions.expand(axes, 1, 2) if axes else positions
    target.prefill([RequestPrompt(ids, ids < 0, parts.embedding(ids)[None], positions, {}, False)])
    for buffer in (*target.keys, *target.values):
        buffer.copy_(_noise(tuple(buffer.shape), buffer))
    target.prefix_lens.fill_(slots)
    return target


def step_of(
    target: TargetState,
    model: Any,
    draft: SparrowDraft,
    way: Way,
    graphed: bool,
) -> StepParts:
    """A step, ready to run."""
    tree = way.tree
    weight = model.get_input_embeddings().weight
    shape = ROOT_ALONE if tree is None else TreeConfig.parse(tree)
    max_path = 1 if tree is None else shape.max_path
    state = None
    if tree is not None:
        ids = None
        if way.vocabulary is not None:
            ids = torch.arange(way.vocabulary, device=weight.device)
        head = DraftHead(model.lm_head, torch.tensor([0], device=weight.device), ids)
        text = torch.arange(TEXT_ROWS, device=weight.device)
        states = _noise((TEXT_ROWS, weight.shape[1]), weight)
        prompt = PromptRows(torch.zeros_like(text), states, text, TEXT_ROWS)
        state = DraftState(
            draft.lighter(int8=way.int8).network_for(weight),
            model.get_input_embeddings(),
            head,
            draft.config.rope_theta,
            [prompt],
            new_tokens=256,
            tree_slots=shape.draft_slots,
            max_path=max_path,
        )
    first = first_committed(
        torch.zeros(1, dtype=torch.int64, device=weight.device),
        _noise((1, weight.shape[1]), weight),
        max_path,
    )
    coins = Coins(1, 1 if tree is None else shape.total, weight.device)
    step = Step(target, state, shape, _Greedy(), coins, first)
    return GraphedStep(step) if graphed else step


class _Greedy:
    scores: Tensor | None = None

    def __call__(self, tree: Any, logits: Tensor) -> Tensor:
        return logits.argmax(dim=-1)

    def probs(self, logits: Tensor) -> Tensor:
        raise NotImplementedError("greedy decoding draws nothing")


def phases(parts: StepParts, target: TargetState, slots: int, repeats: int) -> dict[str, float]:
    """Milliseconds of each phase."""
    names = ("draft", "verify", "commit")

    def begin() -> None:
        target.prefix_lens.fill_(slots)

    calls = [begin, *(getattr(parts, name) for name in names)]
    times = _median_ms(calls, repeats, target.prefix_lens.device)[1:]
    return dict(zip(names, times, strict=True))


def _median_ms(calls: list[Callable[[], None]], repeats: int, device: torch.device) -> list[float]:
    """Median milliseconds of each of `calls`, made in order, again and again."""
    for _ in range(3):
        for call in calls:
            call()
    taken: list[list[float]] = [[] for _ in calls]
    if device.type != "cuda":
        for _ in range(repeats):
            for times, call in zip(taken, calls, strict=True):
                began = time.perf_counter()
                call()
                times.append(1e3 * (time.perf_counter() - began))
        return [median(times) for times in taken]
    marks = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        events = [torch.cuda.Event(enable_timing=True) for _ in range(len(calls) + 1)]
        events[0].record()
        for event, call in zip(events[1:], calls, strict=True):
            call()
            event.record()
        marks.append(events)
    torch.cuda.synchronize()
    for events in marks:
        for times, begin, end in zip(taken, events, events[1:], strict=False):
            times.append(begin.elapsed_time(end))
    return [median(times) for times in taken]


def _noise(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.randn(shape, dtype=torch.float32, device=like.device).mul_(0.3).to(like.dtype)
