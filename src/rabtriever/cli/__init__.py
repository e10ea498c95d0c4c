"""The command line: one file per command, none with logic of its own."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

from rabtriever import __version__
from rabtriever.cli.arguments import Parser, rename_flags
from rabtriever.errors import InputError
from rabtriever.persistence.storage import with_uris
from rabtriever.progress import hide
from rabtriever.training import processes

COMMANDS = (
    "demo",
    "judge",
    "train",
    "generate",
    "distill",
    "index",
    "search",
    "check",
    "serve",
    "mcp",
    "tune",
    "info",
    "evaluate",
    "export",
    "doctor",
    "completion",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: Arguments; the process's own if None.

    Returns:
        Exit code: 0, 1 if it failed, found a fault or a check was not passed, 2 for bad input, 130 if interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal or pipe that is not UTF-8 shows escapes
            stream.reconfigure(errors="backslashreplace")
    argv = rename_flags(sys.argv[1:] if argv is None else argv)
    try:
        args = make_parser().parse_args(argv)
    except SystemExit as stop:  # argparse's way to end: --help, --version, or a fault that it has printed
        return int(stop.code or 0)
    args.argv = argv  # for reports
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore", FutureWarning)  # of libraries among themselves: for programmers
    warnings.formatwarning = lambda message, *_: f"rabtriever {args.command}: {with_uris(str(message))}\n"  # one line
    hide(args.json or args.command == "serve" or processes.rank() > 0)
    try:
        return int(args.run(args) or 0)
    except InputError as error:
        processes.let_first_speak()
        print(f"rabtriever {args.command}: {with_uris(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        resumed = args.command in ("train", "generate", "distill") or (args.command == "judge" and args.out)
        goes_on = resumed or (args.command == "index" and args.ray)
        hint = "; the same command goes on where it was" if goes_on else ""
        print(f"rabtriever {args.command}: interrupted{hint}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader went away, as `| head` does; that is no failure of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def make_parser() -> Parser:
    """Returns the parser of all commands; parsed arguments hold the command's function as ``run``."""
    parser = Parser(prog="rabtriever", description="An LLM reranker's judgement at a vector lookup's cost.")
    parser.add_argument("--version", action="version", version=f"rabtriever {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = import_module(f"rabtriever.cli.{name}")
        command = commands.add_parser(name, help=module.__doc__, description=module.__doc__)
        module.add_arguments(command)
        command.add_argument("--json", action="store_true", help="print one JSON object")
        command.set_defaults(run=module.run)
    return parser
