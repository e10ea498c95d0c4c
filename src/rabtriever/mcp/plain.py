"""What may stand in a log or on a terminal: no keys, and no characters that would be obeyed or hidden."""

from __future__ import annotations

import logging
import re
from urllib.parse import urlsplit

URL = re.compile(r"https?://[^\s'\"<>]+", re.IGNORECASE)


def printable(text: str) -> str:
    """Returns a text with every character that a terminal would not show, or obey, as an escape."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def without_keys(text: str) -> str:
    """Returns a text whose URLs end after host and port: user, path and query may hold a key."""
    return URL.sub(_place, text)


def _place(match: re.Match[str]) -> str:
    try:
        found = urlsplit(match[0])
    except ValueError:
        return "http://..."
    host = found.netloc.rpartition("@")[2]
    return f"{found.scheme}://{host}{'/...' if found.path.strip('/') or found.query else ''}"


class Formatter(logging.Formatter):
    """Writes a record, with what libraries say of it, without keys and on printable lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the record's lines."""
        lines = without_keys(super().format(record)).split("\n")
        return "\n".join(map(printable, lines))
