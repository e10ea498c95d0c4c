"""Print a script that lets a shell complete commands, flags, choices and files."""

from __future__ import annotations

import argparse

from rabtriever.cli.arguments import print_result

SHELLS = ("bash", "zsh", "fish")
# Arguments whose values are files or folders; other values are not guessed.
PATHS = (
    "catalogue",
    "config",
    "data",
    "keys",
    "labels",
    "model",
    "out",
    "queries",
    "report",
    "requests",
    "runs",
    "source",
    "uri",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("shell", choices=SHELLS, help="for which shell")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    import shtab

    from rabtriever.cli import make_parser

    parser = make_parser()
    for command in _commands(parser).values():
        for action in command._actions:
            if action.dest in PATHS and not action.choices:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    script = shtab.complete(parser, args.shell)
    print_result(args, {"shell": args.shell, "script": script}, script)


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    actions = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    commands: dict[str, argparse.ArgumentParser] = next(actions).choices
    return commands
