"""What the readers of sources have in common: documents with their places, and the text of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rabtriever.data import Document
from rabtriever.errors import InputError

Placed = tuple[str, Document]
"""Where a document stands, for messages, and the document."""

SKIPPED = ("node_modules", "__pycache__")


def read_text(path: Path) -> str:
    """Returns a file's text; raises InputError if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8; convert the file") from None


def read_json(path: Path) -> Any:  # noqa: ANN401
    """Returns what a JSON or YAML file holds; raises InputError if it is malformed."""
    text = read_text(path)
    if path.suffix.lower() != ".json":
        return parse_yaml(text, str(path))
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        fault = f"malformed JSON ({error.msg}, line {error.lineno}, column {error.colno})"
        raise InputError(f"{path}: {fault}; correct it") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: a number too long or values nested too deep to read; shorten it") from None


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
        return yaml.load(text, Loader=loader)  # noqa: S506
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none is a ValueError
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
    """Returns the files below a folder in the order of their paths, without hidden folders and packages."""

    def visible(path: Path) -> bool:
        return not any(part.startswith(".") or part in SKIPPED for part in path.relative_to(folder).parts)

    return sorted(path for path in folder.rglob(pattern) if path.is_file() and visible(path))
