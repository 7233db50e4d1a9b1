"""What each draft emits on unseen clips, from one pass of the target a clip."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from bench.ablation.systems import LENGTHS, SEEDS, SYSTEMS, Length
from bench.ablation.training import drafts_mark, trained
from sparrow_kernels import SparrowDecoder, TreeConfig
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.embedded.clips import make_clip
from sparrow_kernels.measuring.evaluation import UNSEEN_SEED, caption_inputs
from sparrow_kernels.models.families import Parts
from sparrow_kernels.models.sequence import SequenceReader
from sparrow_kernels.training.data.encoding import stop_ids
from sparrow_kernels.training.data.rows import wanted_layers
from sparrow_kernels.training.held_out import answered, blind
from sparrow_kernels.training.replay import known_text, replay

NEW_TOKENS = 240


class Way(NamedTuple):
    """A draft, with the clip in its sight or out of it (VATA)."""

    system: str
    seed: int
    vata: bool
    draft: SparrowDraft


def ways(target: Any, root: Path, seeds: Sequence[int] = SEEDS) -> list[Way]:
    """Each draft both ways; one that was trained blind has one."""
    found = []
    for seed in seeds:
        for system in SYSTEMS:
            draft = trained(target, root, seed, system)
            if draft.config.trained_to_see != "nothing":
                found.append(Way(system.name, seed, False, draft))
            found.append(Way(system.name, seed, True, blind(draft)))
    return found


def measure(target: Any, processor: Any, root: Path, lengths: Sequence[Length] = LENGTHS) -> Path:
    """A line a clip, in a file of these drafts; clips that are there are left as they are.

    Raises:
        RuntimeError: a replay emits something else than decoding does.
    """
    path = root / f"clips-{drafts_mark(root)}.jsonl"
    done = {(line["visual_tokens_asked"], line["clip"]) for line in lines_of(path)}
    every = ways(target, root)
    rules = [way.draft.config.row_rules() for way in every]
    reader = SequenceReader(target, set().union(*map(wanted_layers, rules)))
    with path.open("a", encoding="utf-8") as file:
        for length in lengths:
            clips = [n for n in range(length.clips) if (length.visual_tokens, n) not in done]
            for number in tqdm(clips, desc=f"{length.visual_tokens} visual tokens", unit="clip"):
                record = _measure_clip(target, processor, reader, every, length, number)
                file.write(json.dumps(record) + "\n")
                file.flush()
    return path


@torch.no_grad()
def _measure_clip(
    target: Any,
    processor: Any,
    reader: SequenceReader,
    every: list[Way],
    length: Length,
    number: int,
) -> dict[str, Any]:
    script = make_clip(length.visual_tokens, UNSEEN_SEED + number)
    inputs = caption_inputs(processor, script)
    decoder = SparrowDecoder(target, every[0].draft)
    states = answered(decoder, reader, inputs, NEW_TOKENS)
    decoder.release_memory()
    parts = Parts(target)
    banned = [*stop_ids(target).tolist(), *parts.placeholder_ids]
    prompt = inputs["input_ids"].shape[1]
    emitted = []
    checked = 0
    for way in every:
        text = known_text(states, prompt, way.draft.config.row_rules())
        tree = TreeConfig(**way.draft.config.tree)
        histogram = replay(way.draft, parts.embedding, parts.lm_head, text, tree, banned)
        if number < length.checked and way.seed == SEEDS[0]:
            _check(target, way, inputs, states.ids, histogram)
            checked += 1
        row = {"system": way.system, "seed": way.seed, "vata": way.vata}
        emitted.append({**row, "histogram": histogram})
    return {
        "visual_tokens_asked": length.visual_tokens,
        "visual_tokens": script.visual_tokens,
        "clip": number,
        "new_tokens": len(states.ids) - prompt,
        "checked": checked,
        "emitted": emitted,
    }


def _check(target: Any, way: Way, inputs: dict[str, Any], ids: Tensor, replayed: list[int]) -> None:
    result = SparrowDecoder(target, way.draft).generate(
        **inputs, max_new_tokens=NEW_TOKENS, do_sample=False
    )
    assert result.sequences is not None and result.stats is not None
    live = [*result.stats.histogram, *[0] * len(replayed)][: len(replayed)]
    if live != replayed or not result.sequences[0].equal(ids):
        raise RuntimeError(
            f"{way.system}, vata {way.vata}: a replay must emit what decoding does, got {replayed}"
            f" for {live}"
        )


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file; one that was cut while it was written is dropped from it."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    for line in whole.splitlines():
        yield json.loads(line)
