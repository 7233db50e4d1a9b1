"""Write a clip that the embedded target understands, and its true description beside it."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparrow_kernels.cli.arguments import positive, seed, written_to
from sparrow_kernels.cli.errors import wrong_command_line
from sparrow_kernels.cli.files import FORCE, check_new, written_together

HELP = "write a clip the embedded target understands, and its description"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "out", metavar="OUT.mp4", type=written_to(".mp4"), help="the description is OUT.txt"
    )
    parser.add_argument(
        "--visual-tokens",
        type=positive,
        default=500,
        metavar="N",
        help="length of the clip in visual tokens, to the nearest second (default: 500)",
    )
    parser.add_argument(
        "--world",
        choices=("easy", "harder"),
        default="easy",
        help="harder: nothing drawn numbers the parts, things move (default: easy)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="what the clip shows (default: 0)")
    parser.add_argument("--force", action="store_true", help=FORCE)


def run(arguments: argparse.Namespace) -> int:
    from sparrow_kernels.embedded.clips import write_mp4
    from sparrow_kernels.embedded.worlds import WORLDS

    out: Path = arguments.out
    text = out.with_suffix(".txt")
    world = WORLDS[arguments.world]
    with wrong_command_line():
        for file in (out, text):
            check_new("OUT", file, arguments.force)
        script = world.make_clip(arguments.visual_tokens, arguments.seed)
    with written_together(out, text) as (clip_file, text_file):
        text_file.write_text(world.description(script) + "\n", encoding="utf-8")
        frames = world.render(script)
        write_mp4(clip_file, frames)
    print(
        f"{out}: {script.visual_tokens} visual tokens, {script.seconds} s of"
        f" {frames.shape[2]}x{frames.shape[1]}; {text}: what it shows"
    )
    return 0
