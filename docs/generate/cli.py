"""Writes the page cli.md from the parsers of all commands; mkdocs-gen-files runs it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import mkdocs_gen_files

from rabtriever.cli import make_parser

HEAD = """# Commands
Bad input is one line on stderr and exit code 2; another failure is 1, an interruption 130. `--json` prints one JSON
object on stdout; progress goes to stderr. A command that was interrupted while it learnt or wrote requests goes on
where it was when it is repeated.
"""


def command_lines(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yields a command's section: what it does, its usage, a table of each group of arguments."""
    given = [action for action in parser._actions if action.required or not action.option_strings]
    line = " ".join([f"rabtriever {name}", *(usage(action) for action in given), "[options]"])
    yield f"## {name}\n\n{parser.description}\n\n```text\n{line}\n```\n"
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
        if actions:
            title = group.title or ""
            yield f"\n| {'argument' if title == 'positional arguments' else title} | |\n| --- | --- |"
            yield from (f"| {spelling(action)} | {help_of(action, parser)} |" for action in actions)
    yield ""


def usage(action: argparse.Action) -> str:
    """Returns how a command's line has an argument that must be given."""
    more = {"+": f"{value_of(action)} [...]", "*": f"[{value_of(action)} ...]", "?": f"[{value_of(action)}]"}
    value = more.get(str(action.nargs), value_of(action))
    return f"{action.option_strings[-1]} {value}" if action.option_strings else value


def spelling(action: argparse.Action) -> str:
    """Returns how an argument is given, with its value's name or choices."""
    value = "" if action.nargs == 0 else f" {value_of(action)}"
    return ", ".join(f"`{option}{value}`" for option in action.option_strings) or f"`{value_of(action)}`"


def value_of(action: argparse.Action) -> str:
    """Returns what stands for an argument's value: its name, or its choices."""
    choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    return str(action.metavar or choices) if action.option_strings else str(action.metavar or choices).upper()


def help_of(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    """Returns an argument's help, as Markdown of a table's cell."""
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    required = " (required)" if action.option_strings and action.required else ""
    return text.replace("|", "\\|").replace("<", "&lt;") + required


parser = make_parser()
commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction)).choices
with mkdocs_gen_files.open("cli.md", "w") as page:
    page.write(HEAD + "\n")
    for name, command in commands.items():
        page.write("\n".join(command_lines(name, command)) + "\n")
