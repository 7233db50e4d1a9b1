"""Look at a draft of any public format, bring it into our own, or try whether it was read right.

inspect shows each setting and where it was read from; with --target also what it is held against.
convert writes config.json and safetensors that load without any of this. Weights that are pickled
are read by inspect and convert only, and as tensors alone.
probe lets the target write some text and tries the settings that files get wrong.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparrow_kernels.cli.arguments import path
from sparrow_kernels.cli.errors import one_line, wrong_command_line
from sparrow_kernels.cli.files import FORCE, check_new_model
from sparrow_kernels.cli.folders import check_target
from sparrow_kernels.cli.streams import print_json

if TYPE_CHECKING:
    from sparrow_kernels.models.drafts.probe import Probe, SettingProbe

HELP = "inspect, convert or probe a draft of another producer"

_SETTINGS = {
    "state_first": "whether the state stands before the embedding where they are joined",
    "norm_before_residual": "whether the residual is the normed state, where both are read side by"
    " side",
    "feeds_normed": "whether the next level of a tree reads outputs that are normed",
}
_READ = "(default: read from its files)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in (
        ("inspect", "what a draft is, and where each setting was read from"),
        ("convert", "write a draft in our own format"),
        ("probe", "try which settings a draft's weights were trained with"),
    ):
        action = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        action.add_argument(
            "path", metavar="PATH", help="a directory, or owner/name on the hub, or a folder in it"
        )
        action.add_argument(
            "--target",
            type=path,
            metavar="DIR",
            required=name == "convert",
            help="what it drafts for"
            + ("" if name == "convert" else " (default: the embedded one)" * (name == "probe")),
        )
        _add_settings(action)
        if name == "convert":
            action.add_argument(
                "--out", type=path, metavar="DIR", required=True, help="folder to write it to"
            )
            action.add_argument("--force", action="store_true", help=FORCE)
        else:
            action.add_argument("--json", action="store_true", help="print one object")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--layer-ids",
        type=int,
        nargs="+",
        metavar="N",
        help=f"the target's hidden states that it reads, 0 the embedding {_READ}",
    )
    parser.add_argument(
        "--rope-theta", type=float, metavar="T", help=f"base of its rotary embedding {_READ}"
    )
    for name, text in _SETTINGS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", choices=("yes", "no"), help=f"{text} {_READ}"
        )
    parser.add_argument(
        "--lenient",
        action="store_true",
        help="warn of what is not understood instead of refusing it; missing weights are refused",
    )


def run(arguments: argparse.Namespace) -> int:
    action = {"inspect": _inspect, "convert": _convert, "probe": _probe}[arguments.action]
    if arguments.action == "convert":
        with wrong_command_line():
            sources = {"draft": arguments.path, "target": arguments.target}
            check_new_model(arguments.out, arguments.force, "--force overwrites it", **sources)
    check_target(arguments.target, weights=arguments.action != "inspect")
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        return action(arguments)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """One line, without where in the code it came from."""
    print(f"sparrow: warning: {one_line(str(message))}", file=sys.stderr)


def _asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `load_draft` is told."""
    given = {name: getattr(arguments, name) for name in _SETTINGS}
    return {
        "layer_ids": arguments.layer_ids,
        "rope_theta": arguments.rope_theta,
        "strict": not arguments.lenient,
        "settings": {name: value == "yes" for name, value in given.items() if value is not None},
    }


def _inspect(arguments: argparse.Namespace) -> int:
    from sparrow_kernels.models.drafts.convert import inspected

    spec = inspected(arguments.path, arguments.target, **_asked(arguments))
    if arguments.json:
        settings = {one.name: {"value": one.value, "from": one.source} for one in spec}
        print_json({"format": spec.format, "settings": settings})
    else:
        print(spec)
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from sparrow_kernels.models.drafts.convert import converted
    from sparrow_kernels.models.quiet import quiet_transformers

    out: Path = arguments.out
    with quiet_transformers():
        draft, was_pickled = converted(arguments.path, arguments.target, **_asked(arguments))
        draft.save_pretrained(out)
    if was_pickled:
        print(f"{arguments.path} was pickled: its tensors were read, and nothing else of it")
    print(f"{out}: a draft of format {draft.spec.format} (sparrow generate ... --draft {out})")
    return 0


def _probe(arguments: argparse.Namespace) -> int:
    from sparrow_kernels.models.drafts.load import load_draft
    from sparrow_kernels.models.drafts.probe import hint, probe
    from sparrow_kernels.models.drafts.texts import question_ids, written_by
    from sparrow_kernels.models.pair import load_target
    from sparrow_kernels.models.quiet import quiet_transformers

    asked = _asked(arguments)
    with quiet_transformers():
        target, processor = load_target(arguments.target)
        draft = load_draft(arguments.path, target, **asked, probe=False)
        question = question_ids(processor)
        found = probe(draft, target, written_by(target, question), len(question))
    if arguments.json:
        print_json(_as_object(found))
        return 0
    print(
        f"{found.tokens} tokens of the target's own, of which the draft has {found.agreement:.0%}"
        f" right (always the same one: {found.chance:.0%})"
    )
    for one in found:
        print()
        print("\n".join(_lines(one, found.verdict(one.name) != "none")))
        if found.verdict(one.name) == "another":
            print(f"  {hint(one)}")
    print()
    print(_conclusion(found))
    return 0


def _lines(one: SettingProbe, is_told: bool) -> list[str]:
    from sparrow_kernels.models.drafts.probe import shown

    lines = [f"{one.name:22}  top 1  top 5   nats"]
    for tried in one.tried:
        mark = "*" if tried.is_chosen else " "
        best = "  stands out" if is_told and tried is one.best else ""
        lines.append(
            f"{mark} {shown(tried.value):20} {tried.top1:6.1%} {tried.top5:6.1%}"
            f" {tried.surprise:6.3f}{best}"
        )
    return lines


def _conclusion(found: Probe) -> str:
    if not found.knows:
        return "none: with no setting does the draft agree with the target more than by chance"
    if found.better:
        names = ", ".join(found.better)
        return f"another value than the one loaded (*) stands out for {names}"
    behind = [one.name for one in found if one.is_behind]
    if behind:
        return f"no value stands out for {', '.join(behind)}, and what was loaded (*) is behind"
    return "no other value than the one loaded (*) stands out"


def _as_object(found: Probe) -> dict[str, Any]:
    return {
        "tokens": found.tokens,
        "agreement": found.agreement,
        "chance": found.chance,
        "knows": found.knows,
        "better": found.better,
        "settings": {
            one.name: {
                "verdict": found.verdict(one.name),
                "tried": [
                    {
                        "value": tried.value,
                        "top1": tried.top1,
                        "top5": tried.top5,
                        "nats": tried.surprise,
                        "loaded": tried.is_chosen,
                    }
                    for tried in one.tried
                ],
            }
            for one in found
        },
    }
