"""A target split over processes by tensor parallelism, as each of the processes decodes with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from family_cases import draft_for, prompts, tiny, turns
from transformers import AutoModelForImageTextToText
from transformers.distributed import DistributedConfig

from sparrow_kernels.decoding import TreeConfig
from sparrow_kernels.models import SparrowDecoder
from sparrow_kernels.models.parallel import QWEN3_VL_PLAN

PROCESSES = 2
FAMILIES = ("qwen2_5_vl", "qwen3_vl", "llava_onevision")
NEW_TOKENS = 12
BATCHES = {
    "one": [turns(4, "What happens?")],
    "ragged two": [turns("Why?"), turns(4, "What happens in the clip?")],
}
TREES = ("6-5-1", "30-4-8")
GREEDY = {"do_sample": False}
SAMPLED = {"do_sample": True, "temperature": 1.3, "top_k": 0}
# By name: batch, tree, arguments of `generate`.
CASES: dict[str, tuple[str, str | TreeConfig, dict[str, Any]]] = {
    f"{way}, {batch}, {tree}": (batch, tree, settings)
    for way, settings in (("greedy", GREEDY), ("sampled", SAMPLED))
    for batch, tree in zip(BATCHES, TREES, strict=True)
}
CASES["drawn"] = ("ragged two", "2x2x1", SAMPLED)
CASES["drawn at once"] = ("ragged two", TreeConfig(branching=[3]), SAMPLED)
# Processors that read the ids before a token are called node by node.
CASES["walked"] = ("ragged two", "6-5-1", {**SAMPLED, "repetition_penalty": 1.2})
PLAINEST = "greedy, one, 6-5-1"


# What is split is a family's layers: one goes through every case, the others through these.
FEW = (PLAINEST, "greedy, ragged two, 30-4-8", "sampled, ragged two, 30-4-8", "drawn")


def cases_of(name: str) -> tuple[str, ...]:
    return tuple(CASES) if name == FAMILIES[0] else FEW


def decoded(target: Any, name: str, seed: int, case: str, **more: Any) -> Any:
    batch, tree, settings = CASES[case]
    settings = settings | more
    inputs = prompts(tiny(name).processor, *BATCHES[batch])
    decoder = SparrowDecoder(target, draft_for(name), tree)
    torch.manual_seed(seed)
    return decoder.generate(**inputs, max_new_tokens=NEW_TOKENS, **settings)


class StopsAt:
    """A clock that stands at another time in each process."""

    def __init__(self, new_tokens: int) -> None:
        self._left = new_tokens

    def __call__(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self._left -= 1
        return torch.full((ids.shape[0],), self._left <= 0)


def work(folder: Path, group: dict[str, str]) -> None:
    """What a process of the group does, which its variables in the environment describe."""
    os.environ.update(group)
    torch.set_num_threads(1)
    # Nothing of accelerate is used where all of a model lies on one device.
    import transformers.integrations.accelerate as gate

    gate.is_accelerate_available = lambda *_, **__: True
    dist.init_process_group("gloo")
    for name in FAMILIES:
        split(folder, name, dist.get_rank())
    dist.barrier()
    dist.destroy_process_group()


def split(folder: Path, name: str, rank: int) -> None:
    """Every case of a family, and what this process has held."""
    plan = QWEN3_VL_PLAN if name == "qwen3_vl" else "auto"
    config = DistributedConfig(tp_plan=plan, tp_size=PROCESSES)
    target = AutoModelForImageTextToText.from_pretrained(folder / name, distributed_config=config)
    target.eval()
    texts = {}
    for case in cases_of(name):
        settings = CASES[case][2]
        # What the first process chooses counts. (Draws of several levels gather in between.)
        unlike = {"temperature": 1.3 - 1.1 * rank} if settings != GREEDY and case != "drawn" else {}
        texts[case] = decoded(target, name, 7 + rank, case, **unlike)
    heads = texts[PLAINEST].cache.keys[0].shape[1]
    found = {case: result.sequences for case, result in texts.items()}
    clock = StopsAt(5 + 6 * rank)
    stopped = decoded(target, name, 7, PLAINEST, stopping_criteria=[clock])
    found["clocks that differ"] = stopped.sequences
    auto = TreeConfig.auto("6-5-1", "4-3-1")
    auto.choose = lambda *_: auto.candidates[rank]
    inputs = prompts(tiny(name).processor, *BATCHES["one"])
    decoder = SparrowDecoder(target, draft_for(name), auto)
    chosen = decoder.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    assert chosen.stats.tree == "6-5-1"
    found["trees that differ"] = chosen.sequences
    few = draft_for(name).lighter(vocabulary=range(100, 200))
    decoder = SparrowDecoder(target, few, "6-5-1")
    result = decoder.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    found["a draft of few words"] = result.sequences
    with torch.no_grad():  # as rounding may make them, and much more
        for parameter in draft_for(name).parameters():
            parameter.add_(0.1 * rank * torch.randn(parameter.shape))
    found["drafts that differ"] = decoded(target, name, 7, PLAINEST).sequences
    torch.save({"heads": heads, "texts": found}, folder / f"{name}-{rank}.pt")
