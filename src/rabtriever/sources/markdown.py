"""Folders of Markdown: a file as a document, of a longer one a section."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rabtriever.data import Document
from rabtriever.sources.places import Placed, find_files, front_matter, read_text

FILE_CHARACTERS = 2000  # some 450 tokens, about what small encoders read; a longer file is divided at its headings
HEADING = re.compile(r" {0,3}#{1,6}\s+(\S.*)")
FENCE = re.compile(r" {0,3}(```+|~~~+)")


def markdown_files(folder: Path) -> list[Path]:
    """Returns the Markdown files below a folder."""
    return find_files(folder, "*.md")


def markdown_documents(folder: Path, files: Sequence[Path]) -> Iterator[Placed]:
    """Yields the documents of some files below a folder.

    A file of up to :data:`FILE_CHARACTERS` is one document, its id the path in the folder, its title that of the front
    matter or the heading it begins with. A longer one is divided at its headings: the id is then ``path#anchor``, with
    the anchor that GitHub gives the heading, the title that of the file and the heading. What stands before the next
    heading keeps the path as its id; a heading without text is left out.
    """
    for path in files:
        relative = path.relative_to(folder).as_posix()
        values, text = front_matter(read_text(path), str(path))
        begin, _, rest = text.strip().partition("\n")
        heading = _heading(begin)
        text = rest if heading else text
        given = values.get("title")
        title = given if isinstance(given, str) else heading or path.stem
        if len(text) <= FILE_CHARACTERS:
            yield str(path), Document(relative, text.strip(), title, {"path": relative})
            continue
        seen: dict[str, int] = {}
        if heading:
            _anchor(heading, seen)
        for section, body in _sections(text):
            anchor = f"#{_anchor(section, seen)}" if section else ""
            if body.strip():
                name = f"{title} > {section}" if section else title
                yield str(path), Document(relative + anchor, body.strip(), name, {"path": relative})


def _sections(text: str) -> list[tuple[str, str]]:
    """Returns the headings of a text, each with what stands below it; the first heading is blank."""
    sections: list[tuple[str, list[str]]] = [("", [])]
    fence = ""
    for line in text.splitlines():
        marker = FENCE.match(line)
        if marker and (not fence or marker[1].startswith(fence)):
            fence = "" if fence else marker[1]
        heading = "" if fence else _heading(line)
        if heading:
            sections.append((heading, []))
        else:
            sections[-1][1].append(line)
    return [(heading, "\n".join(lines)) for heading, lines in sections]


def _heading(line: str) -> str:
    """Returns the heading that a line is, without the ``#`` that may close it; blank if it is none."""
    match = HEADING.match(line)
    text = match[1].rstrip() if match else ""
    without = text.rstrip("#")
    return without.rstrip() if not without or without[-1].isspace() else text


def _anchor(heading: str, seen: dict[str, int]) -> str:
    """Returns the anchor that GitHub gives a heading: with ``-1``, ``-2`` and so on where it is taken."""
    anchor = words = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
    while anchor in seen:
        seen[words] += 1
        anchor = f"{words}-{seen[words]}"
    seen[anchor] = 0
    return anchor
