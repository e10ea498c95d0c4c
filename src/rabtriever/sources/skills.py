"""Folders of ``SKILL.md`` files: a skill as a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rabtriever.data import Document
from rabtriever.errors import InputError, shorten
from rabtriever.sources.places import Placed, find_files, front_matter, read_text

SKILL = "SKILL.md"
SKILL_CHARACTERS = 4000  # of description and body; models read the first of these, BM25 all


def skill_files(folder: Path) -> list[Path]:
    """Returns the ``SKILL.md`` files below a folder."""
    return find_files(folder, SKILL)


def skill_documents(folder: Path, files: Sequence[Path]) -> Iterator[Placed]:
    """Yields the skills of some files below a folder.

    A document's id is the path of the skill's folder, its title the skill's name, its text the description and then the
    body, cut to :data:`SKILL_CHARACTERS`: every model reads the description first.

    Raises:
        InputError: front matter that is malformed, or a name or description that is no text.
    """
    for path in files:
        place, relative = str(path), path.parent.relative_to(folder).as_posix()
        values, body = front_matter(read_text(path), place)
        for key in ("name", "description"):
            if not isinstance(values.get(key), str | None):
                raise InputError(f"{place}: {key} is {shorten(values[key])}; it should be a string")
        name = (values.get("name") or "").strip() or path.parent.resolve().name
        text = "\n".join(part for part in ((values.get("description") or "").strip(), body.strip()) if part)
        identifier = name if relative == "." else relative
        yield place, Document(identifier, text[:SKILL_CHARACTERS], name, {"name": name, "path": relative})
