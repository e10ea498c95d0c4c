"""The words of a text, names taken apart."""

from __future__ import annotations

import re

# Where a word of a name ends: createIssue, getHTTPCode; but IDs is one word.
BETWEEN = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])(?![A-Z]s(?![a-z]))")
WORD = re.compile(r"[^\W_]+")


def split_words(text: str) -> list[str]:
    """Returns a text's words in lower case; ``createIssue``, ``create_issue`` and ``create-issue`` are two words."""
    return WORD.findall(BETWEEN.sub(" ", text).lower())


def without_plural(word: str) -> str:
    """Returns a word of more than three letters without a plural's ``s``; ``process`` has none."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def words(text: str) -> list[str]:
    """Returns a text's words in lower case, names taken apart and plural s left out."""
    return [without_plural(word) for word in split_words(text)]
