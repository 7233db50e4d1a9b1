"""The worlds that the package draws clips of, each as one value: what it shows and says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparrow_kernels.embedded import captions, clips, specimens, world
from sparrow_kernels.embedded.captions import Exchange
from sparrow_kernels.embedded.clips import ClipScript
from sparrow_kernels.embedded.draft_recipe import DraftRecipe
from sparrow_kernels.embedded.harder import captions as harder_captions
from sparrow_kernels.embedded.harder import clips as harder_clips
from sparrow_kernels.embedded.harder import world as harder_world
from sparrow_kernels.embedded.harder.recipe import HARDER_DRAFT_RECIPE, HARDER_RECIPE
from sparrow_kernels.embedded.recipe import TargetRecipe


@dataclass(frozen=True)
class World:
    """One world. Functions are documented where they are defined; they say what they take.

    groups: classes of the labels of a tile, attribute by attribute, and one more.
    views: specimens of each scene in the pool of tiles. distractors: how many are in it.
    styles: kinds of questions that are answered by a caption, and their shares in training.
    hidden_tiles, spoken_parts: what training's hint of a part's number asks for; None where it is
    drawn, and there is no hint.
    """

    name: str
    max_parts: int
    widest: int  # tiles along an edge
    make_clip: Callable[[int, int], ClipScript]
    random_script: Callable[[int, int, int, int], ClipScript]
    clip_shape: Callable[[int], tuple[int, int]]
    render: Callable[[ClipScript], np.ndarray]
    questions: Mapping[str, tuple[str, ...]]
    styles: Mapping[str, float]
    ask: Callable[[str, ClipScript, np.random.Generator], Exchange]
    description: Callable[[ClipScript], str]
    content_words: Set[str]
    all_phrases: Callable[[], list[str]]
    groups: tuple[int, ...]
    views: int
    distractors: int
    draw_pool: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    draw_distractors: Callable[[int, int, np.random.Generator], np.ndarray]
    specimens: Callable[[ClipScript, int, np.random.Generator], np.ndarray]
    hidden_tiles: Callable[[ClipScript], np.ndarray] | None
    spoken_parts: Callable[[Exchange, Sequence[str], int], list[int | None]] | None
    recipe: TargetRecipe
    draft_recipe: DraftRecipe

    @property
    def scenes(self) -> int:
        """Of how many scenes the pool of tiles has specimens."""
        return int(np.prod(self.groups[:-1])) * (self.groups[-1] - 1)


EASY = World(
    name="easy",
    max_parts=world.MAX_PARTS,
    widest=clips.WALLS[-1][0],
    make_clip=clips.make_clip,
    random_script=clips.random_script,
    clip_shape=clips.clip_shape,
    render=clips.render,
    questions=captions.QUESTIONS,
    styles={"describe": 1.0},
    ask=captions.ask,
    description=captions.description,
    content_words=captions.CONTENT_WORDS,
    all_phrases=captions.all_phrases,
    groups=specimens.EASY_GROUPS,
    views=specimens.EASY_VIEWS,
    distractors=2592,
    draw_pool=specimens.draw_easy_pool,
    draw_distractors=world.draw_distractors,
    specimens=specimens.easy_specimens,
    hidden_tiles=None,
    spoken_parts=None,
    recipe=TargetRecipe(),
    draft_recipe=DraftRecipe(),
)

HARDER = World(
    name="harder",
    max_parts=harder_world.MAX_PARTS,
    widest=harder_clips.WALLS[-1][0],
    make_clip=harder_clips.make_clip,
    random_script=harder_clips.random_script,
    clip_shape=harder_clips.clip_shape,
    render=harder_clips.render,
    questions=harder_captions.QUESTIONS,
    styles=harder_captions.STYLES,
    ask=harder_captions.ask,
    description=harder_captions.description,
    content_words=harder_captions.CONTENT_WORDS,
    all_phrases=harder_captions.all_phrases,
    groups=specimens.HARDER_GROUPS,
    views=specimens.HARDER_VIEWS,
    distractors=1872,
    draw_pool=specimens.draw_harder_pool,
    draw_distractors=harder_world.draw_distractors,
    specimens=specimens.harder_specimens,
    hidden_tiles=harder_clips.hidden_tiles,
    spoken_parts=harder_captions.spoken_parts,
    recipe=HARDER_RECIPE,
    draft_recipe=HARDER_DRAFT_RECIPE,
)

WORLDS = {world.name: world for world in (EASY, HARDER)}


def world_of(target: Any) -> World:
    """The world that a target was trained on; the easy one if its configuration names none."""
    return WORLDS[getattr(target.config, "embedded_world", EASY.name)]
