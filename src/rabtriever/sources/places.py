"""What the readers of sources have in common: documents with their places, and the text of files."""

from __future__ import annotations

import json
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

from rabtriever.data import Document
from rabtriever.errors import InputError
from rabtriever.persistence.files import read_file

Placed = tuple[str, Document]
"""Where a document stands, for messages, and the document."""

SKIPPED = ("node_modules", "__pycache__")
MAX_NESTING = 200  # of lists and objects in one another; the C parser of YAML ends the process far beyond


def read_text(path: str | Path) -> str:
    """Returns a file's text, without a byte order mark; raises InputError if it cannot be read or is not UTF-8."""
    try:
        return TextIOWrapper(BytesIO(read_file(path)), encoding="utf-8-sig").read()
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8; convert the file") from None
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: str | Path, error: OSError) -> InputError:
    """Returns the error of a file or folder that the system does not let us read."""
    return InputError(f"{path}: cannot be read ({error.strerror or error}); check its permissions")


def read_json(path: str | Path) -> Any:  # noqa: ANN401
    """Returns what a JSON file holds, or a YAML file by its suffix; raises InputError if it cannot be read."""
    text = read_text(path)
    if Path(path).suffix.lower() in (".yaml", ".yml"):
        return parse_yaml(text, str(path))
    try:
        value = json.loads(text)
        if _is_deep(value):
            raise RecursionError
        return value
    except json.JSONDecodeError as error:
        fault = f"malformed JSON ({error.msg}, line {error.lineno}, column {error.colno})"
        raise InputError(f"{path}: {fault}; correct it") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: a number too long or values nested too deep to read; shorten it") from None


def _is_deep(value: Any) -> bool:  # noqa: ANN401
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_NESTING):
        parts = (part for outer in level for part in (outer.values() if isinstance(outer, dict) else outer))
        level = [part for part in parts if isinstance(part, dict | list)]
    return bool(level)


def parse_yaml(text: str, place: str, first_line: int = 1) -> Any:  # noqa: ANN401
    """Returns what a text in YAML holds.

    Args:
        text: The text.
        place: For messages.
        first_line: Number of the text's first line in its file.

    Raises:
        InputError: it is malformed; the message names the line.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_NESTING:
                mark: Any = event.start_mark
                raise yaml.MarkedYAMLError(problem="values nested too deep", problem_mark=mark)
        return yaml.load(text, Loader=loader)  # noqa: S506
    except (yaml.YAMLError, ValueError, LookupError) as error:  # a date that is none, an empty number
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + first_line}" if mark else ""
        fault = getattr(error, "problem", None) or type(error).__name__
        raise InputError(f"{place}{line}: malformed YAML ({fault}); quote values that hold a colon") from None


def front_matter(text: str, place: str) -> tuple[dict[str, Any], str]:
    """Returns the YAML between the ``---`` lines that a Markdown file may begin with, and the text behind it.

    Raises:
        InputError: it is malformed, or no mapping.
    """
    lines = text.splitlines()
    if not lines or lines[0].rstrip() != "---":
        return {}, text
    end = next((i for i, line in enumerate(lines[1:], start=1) if line.rstrip() == "---"), None)
    if end is None:
        return {}, text
    values = parse_yaml("\n".join(lines[1:end]), place, first_line=2)
    if not isinstance(values, dict | None):
        raise InputError(f"{place}: its front matter is no mapping; write `key: value` lines")
    return values or {}, "\n".join(lines[end + 1 :])


def find_files(folder: Path, pattern: str) -> list[Path]:
    """Returns the files below a folder in the order of their paths, without hidden folders and packages.

    A link to a folder is followed, unless that folder is found without it, too, or holds this one.

    Raises:
        InputError: a folder cannot be read.
    """
    found: list[Path] = []
    folders, links, seen = [folder], list[Path](), set[Path]()
    while folders or links:
        current = folders.pop() if folders else links.pop(0)
        real = current.resolve()
        if real in seen or (current != folder and folder.resolve().is_relative_to(real)):
            continue
        seen.add(real)
        try:
            for path in sorted(current.iterdir()):
                if path.name.startswith(".") or path.name in SKIPPED:
                    continue
                if path.is_dir():
                    (links if path.is_symlink() else folders).append(path)
                elif path.match(pattern) and path.is_file():
                    found.append(path)
        except OSError as error:
            raise unreadable(current, error) from None
    return sorted(found)
