"""What `--help` shows: an order of words that is understood, and choices that are all there are."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from sparrow_kernels.cli import environment
from sparrow_kernels.cli.main import _parser


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from commands(command)


def usages() -> dict[str, str]:
    return {each.prog: each.format_usage().strip() for each in commands(_parser())}


@pytest.mark.parametrize(
    "command, shown",
    [
        ("generate", "generate CLIP.mp4 QUESTION [options]"),
        ("evaluate", "evaluate [options]"),
        ("draft inspect", "draft inspect PATH [options]"),
        ("draft convert", "draft convert PATH --target DIR --out DIR [options]"),
        ("bench", "bench ..."),
    ],
)
def test_options_that_take_several_words_are_shown_behind_the_arguments(
    command: str, shown: str
) -> None:
    """In front they would take these too."""
    assert usages()[f"sparrow {command}"] == f"usage: sparrow {shown}"


def test_the_order_that_is_shown_is_understood() -> None:
    words = ["generate", "a.mp4", "why", "--batch", "b.mp4", "c.mp4", "--json", "--batch", "d.mp4"]
    given = _parser().parse_args(words)
    assert (given.clip, given.question) == ("a.mp4", "why")
    assert given.batch == ["b.mp4", "c.mp4", "d.mp4"]  # not the last one alone
    given = _parser().parse_args(["draft", "inspect", "dir", "--layer-ids", "1", "2"])
    assert (given.path, given.layer_ids) == ("dir", [1, 2])


def test_training_a_target_has_a_help_of_its_own() -> None:
    help_of = {each.prog: each.format_help() for each in commands(_parser())}
    for option in ("--data", "--mode", "--target "):
        assert option in help_of["sparrow train draft"]
        assert option not in help_of["sparrow train target"]
    assert "--fresh" in help_of["sparrow train target"]


def test_choices_are_those_of_their_owners() -> None:
    """They are written down once more so that --help need not import torch."""
    from sparrow_kernels.drafting.losses import LOSSES
    from sparrow_kernels.drafting.modes import MODES
    from sparrow_kernels.drafting.rows import POSITIONS, SIGHTS
    from sparrow_kernels.embedded.worlds import WORLDS
    from sparrow_kernels.ops.env import BACKENDS

    owners = {
        **{"--mode": MODES, "--trained-to-see": SIGHTS, "--loss": LOSSES, "--text-loss": LOSSES},
        **{"--world": WORLDS, "--attn": BACKENDS, "--positions": POSITIONS},
    }
    seen = set()
    for command in commands(_parser()):
        for action in command._actions:
            for option in set(action.option_strings) & set(owners):
                assert list(action.choices or ()) == list(owners[option]), (
                    f"{command.prog} {option}"
                )
                seen.add(option)
    assert seen == set(owners)
    assert BACKENDS[1:] == environment._BACKENDS
