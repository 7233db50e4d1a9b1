"""Which clips are decoded at which lengths, settled before any of it is measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sparrow_kernels.embedded.clips import ClipScript, write_mp4
from sparrow_kernels.embedded.worlds import World, world_of
from sparrow_kernels.measuring.evaluation import UNSEEN_SEED
from sparrow_kernels.measuring.lengths import (
    FEWEST,
    default_rate,
    nearest,
    read_densely,
    read_whole,
    thinned,
)
from sparrow_kernels.models.families import Parts
from sparrow_kernels.models.inputs import FrameRules, build_inputs, frame_rules
from sparrow_kernels.video.clip import Clip, TooManyFrames

_SHOWN = 4


class Prompt:
    """A question to a target, about one clip or another.

    Raises:
        ValueError: the processor takes no clips.
    """

    def __init__(self, target: Any, processor: Any, question: str) -> None:
        self.question = question
        self.rules: FrameRules = frame_rules(processor)
        self.context: int = target.config.get_text_config().max_position_embeddings
        self.world: World = world_of(target)
        """Of generated clips."""
        self._parts, self._processor = Parts(target), processor

    def inputs(self, clip: Clip) -> dict[str, Any]:
        """What `generate` takes, on the target's device."""
        device = self._parts.device
        made = build_inputs(self._processor, self.question, [clip])
        return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in made.items()}

    def counts(self, clip: Clip) -> tuple[int, int]:
        """Visual tokens, and all tokens of the prompt."""
        ids = build_inputs(self._processor, self.question, [clip])["input_ids"]
        return int(self._parts.visual_mask(ids).sum()), ids.shape[1]


class Case(NamedTuple):
    """A clip to decode."""

    clip: str
    """Its name."""
    length: int | None
    """Visual tokens asked for; None for a clip as it is."""
    frames: int
    fps: float
    visual_tokens: int
    read: Callable[[], Clip]


class LeftOut(NamedTuple):
    """A clip that is not decoded at a length."""

    clip: str
    length: int | None
    reason: str

    def __str__(self) -> str:
        where = "" if self.length is None else f" at {self.length} visual tokens"
        return f"{self.clip} is left out{where}: {self.reason}"


class Plan(NamedTuple):
    """What is decoded, length by length, and what is not."""

    cases: list[Case]
    left_out: list[LeftOut]
    unreadable: Sequence[LeftOut] = ()
    """Left out of every length: nothing can be read of them."""

    def check(self) -> None:
        """Raise `ValueError` if there is a length of which every clip is left out."""
        if self.unreadable and not self.cases and not self.left_out:
            others = len(self.unreadable) - 1
            more = f" (and {others} more that cannot be read)" if others else ""
            raise ValueError(f"{self.unreadable[0].reason}{more}")
        without = [*self.left_out, *self.unreadable]
        for length in dict.fromkeys(one.length for one in self.left_out):
            if any(case.length == length for case in self.cases):
                continue
            why = [
                f"{each.clip}: {each.reason}" for each in without if each.length in (length, None)
            ]
            more = f"; {len(why) - _SHOWN} more" if len(why) > _SHOWN else ""
            to_reach = "can be asked about" if length is None else f"comes near {length}"
            raise ValueError(
                f"no clip {to_reach}{'' if length is None else ' visual tokens'}"
                f" ({'; '.join(why[:_SHOWN])}{more})"
            )


def plan_files(
    prompt: Prompt,
    paths: Sequence[Path],
    lengths: Sequence[int],
    on_file: Callable[[Path], None] = lambda _: None,
) -> Plan:
    """Each file at each length; without lengths, as it is at the default rate.

    Raises:
        ImportError: nothing here reads videos.
    """
    found: list[Case | LeftOut] = []
    unreadable = []
    for path, name in zip(paths, _names(paths), strict=True):
        on_file(path)
        try:
            if lengths:
                found += list(_at_lengths(prompt, path, name, lengths))
            else:
                found.append(_as_it_is(prompt, path, name))
        except (ValueError, OSError) as error:  # one damaged file is no reason to lose the others
            unreadable.append(LeftOut(name, None, str(error)))
    cases = [one for one in found if isinstance(one, Case)]
    order = {length: place for place, length in enumerate(lengths)}
    cases.sort(key=lambda case: order.get(case.length or 0, 0))  # stable: files stay in order
    return Plan(cases, [one for one in found if isinstance(one, LeftOut)], unreadable)


def plan_generated(prompt: Prompt, clips: int, lengths: Sequence[int]) -> Plan:
    """So many clips that the package generates, at each length.

    Raises:
        ValueError: a length they cannot have, or a target that counts other tokens in them.
    """
    cases = []
    for length in lengths:
        scripts = [prompt.world.make_clip(length, UNSEEN_SEED + number) for number in range(clips)]
        first = _through_mp4(scripts[0], prompt)
        visual, tokens = prompt.counts(first)
        if visual != scripts[0].visual_tokens:
            raise ValueError(
                f"clips must be video files for this target: of a generated clip that has"
                f" {scripts[0].visual_tokens} visual tokens to the embedded one it makes {visual}"
            )
        if tokens >= prompt.context:
            raise ValueError(_too_long(prompt, tokens))
        cases += [
            Case(
                f"generated-{script.seed}",
                length,
                len(first.frames),
                float(first.fps),
                script.visual_tokens,
                partial(_through_mp4, script, prompt),
            )
            for script in scripts
        ]
    return Plan(cases, [])


def _at_lengths(
    prompt: Prompt, path: Path, name: str, lengths: Sequence[int]
) -> Iterator[Case | LeftOut]:
    whole = read_densely(path, prompt.rules)
    counted: dict[int, tuple[int, int]] = {}

    def count(frames: int) -> int:
        if frames not in counted:
            counted[frames] = prompt.counts(thinned(whole, frames))
        return counted[frames][0]

    merged = prompt.rules.merged if prompt.rules.packs else 1
    for length in lengths:
        reach = nearest(length, len(whole.frames), merged, count)
        tokens = counted[reach.frames][1]
        if not reach.is_about(length):
            short = reach.visual_tokens < length
            shortest = f"at its shortest, {FEWEST} frames, it has {reach.visual_tokens}"
            reason = f"it reaches {reach.visual_tokens}" if short else shortest
            yield LeftOut(name, length, reason)
        elif tokens >= prompt.context:
            yield LeftOut(name, length, _too_long(prompt, tokens))
        else:
            fps = float(thinned(whole, reach.frames).fps)
            read = partial(_read_thinned, path, prompt.rules, reach.frames)
            yield Case(name, length, reach.frames, fps, reach.visual_tokens, read)


def _read_thinned(path: Path, rules: FrameRules, frames: int) -> Clip:
    return thinned(read_densely(path, rules), frames)


def _as_it_is(prompt: Prompt, path: Path, name: str) -> Case | LeftOut:
    fps = default_rate(prompt.rules)
    try:
        clip = read_whole(path, prompt.rules, fps)
    except TooManyFrames:
        most = f"it has more than {prompt.rules.most} frames at {float(fps):g} a second"
        return LeftOut(name, None, f"{most} (--lengths samples fewer)")
    visual, tokens = prompt.counts(clip)
    if tokens >= prompt.context:
        return LeftOut(name, None, f"{_too_long(prompt, tokens)} (--lengths samples fewer)")
    read = partial(read_whole, path, prompt.rules, fps)
    return Case(name, None, len(clip.frames), float(fps), visual, read)


def _too_long(prompt: Prompt, tokens: int) -> str:
    return f"its prompt of {tokens} tokens leaves no room in the target's context, {prompt.context}"


def _through_mp4(script: ClipScript, prompt: Prompt) -> Clip:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_mp4(path, prompt.world.render(script))
        return read_whole(path, prompt.rules, default_rate(prompt.rules))


def _names(paths: Sequence[Path]) -> list[str]:
    """File names, or paths as given where names are not enough to tell files apart."""
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]
