"""The entry point: parses the command line, runs a command, and turns any error into one line.

Torch and transformers take seconds to import, so commands import them when they run, not here.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from sparrow_kernels._version import __version__
from sparrow_kernels.cli import bench, clip, draft, environment, evaluate, generate, train
from sparrow_kernels.cli.errors import (
    STATUSES,
    USAGE,
    WrongCommandLine,
    explain,
    one_line,
    reader_left,
    status_of,
)
from sparrow_kernels.cli.signals import Terminated, signals_raise
from sparrow_kernels.cli.streams import guarded_streams, print_json

_COMMANDS = {
    "generate": generate,
    "clip": clip,
    "train": train,
    "draft": draft,
    "evaluate": evaluate,
    "env": environment,
    "bench": bench,
}

_JSON = "--json"
"""Who asks for it reads errors as JSON too, on stdout; the line on stderr stays."""
_EPILOG = """\
exit status:
{}

With --json an error is an object too: {{"error": ..., "status": ...}}.
SPARROW_TRACEBACK=1 shows where an error came from.
""".format("\n".join(f"  {status:<3}  {meaning}" for status, meaning in STATUSES.items()))


class _HelpFormatter(argparse.HelpFormatter):
    """Wraps text to the terminal, but for a text of several lines, such as a list."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n  " in text:
            return "".join(f"{indent}{line}\n" for line in text.splitlines())
        return super()._fill_text(text, width, indent)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line, without the usage."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is not known here, where the --help is that lists what is."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        raise WrongCommandLine(f"{one_line(message)} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `sparrow` with `argv`, the process's own by default. Returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    with guarded_streams():
        try:
            with signals_raise():
                status = _run(words)
                sys.stdout.flush()
                return status
        except (KeyboardInterrupt, Terminated, Exception) as error:
            if os.environ.get("SPARROW_TRACEBACK") == "1" and not reader_left(error):
                raise
            if not reader_left(error):
                print(f"sparrow: error: {explain(error)}", file=sys.stderr)
                if _JSON in words:
                    print_json({"error": explain(error), "status": status_of(error)})
            return status_of(error)


def _run(argv: list[str]) -> int:
    if argv[:1] == ["bench"] and argv[1:] not in (["-h"], ["--help"]):
        return bench.run(argv[1:])  # its options are its own
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as ended:  # help, version
        return ended.code if isinstance(ended.code, int) else 1
    if arguments.command is None:
        parser.print_help()
        return USAGE
    return _COMMANDS[arguments.command].run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sparrow",
        description="Speculative decoding for Video LLMs: the same text, sooner.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"sparrow {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for name, module in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            epilog=getattr(module, "EPILOG", None),
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(command)
    _shorten_usage(parser)
    return parser


def _shorten_usage(parser: argparse.ArgumentParser) -> None:
    """What has to be there, in an order that works: arguments first, since an option that takes
    several words takes those behind it too."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _shorten_usage(command)
            return
    words = [str(each.metavar) for each in parser._get_positional_actions()]
    options = parser._get_optional_actions()[1:]  # --help comes first
    words += [f"{each.option_strings[0]} {each.metavar}" for each in options if each.required]
    parser.usage = " ".join(["%(prog)s", *words, *["[options]"][: len(options)]])
