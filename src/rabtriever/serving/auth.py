"""API keys and their roles: reading alone, or writing too."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from rabtriever.errors import InputError

Role = Literal["read", "write"]
ROLES: tuple[Role, ...] = ("read", "write")
MIN_KEY_LENGTH = 16


class APIKeys:
    """API keys and their roles; ``write`` includes ``read``. Only digests are held.

    Args:
        keys: Pairs of role and key.
    """

    def __init__(self, keys: Iterable[tuple[Role, str]]) -> None:
        self._digests = [(role, _digest(key)) for role, key in keys]

    @classmethod
    def load(cls, path: str | None, environment: Mapping[str, str] = os.environ) -> APIKeys:
        """Loads the keys of a file and of ``$RABTRIEVER_READ_KEYS`` and ``$RABTRIEVER_WRITE_KEYS`` (comma-separated).

        Args:
            path: A file with lines ``read KEY`` or ``write KEY``; blank lines and those that begin with # are skipped.
            environment: The variables.

        Raises:
            InputError: the file cannot be read, a line is malformed, or a key is too short.
        """
        found: list[tuple[Role, str]] = []
        for number, line in enumerate(_lines(path) if path else [], 1):
            words = line.split()
            if not words or line.lstrip().startswith("#"):
                continue
            if len(words) != 2 or words[0] not in ROLES:
                raise InputError(f"{path}, line {number}: write `read KEY` or `write KEY`")
            found.append(_checked(words[0], words[1], f"{path}, line {number}"))
        for role in ROLES:
            name = f"RABTRIEVER_{role.upper()}_KEYS"
            for key in filter(None, (part.strip() for part in environment.get(name, "").split(","))):
                found.append(_checked(role, key, f"${name}"))
        return cls(found)

    def __bool__(self) -> bool:
        """Returns whether there is any."""
        return bool(self._digests)

    def roles(self, authorization: str | None) -> set[Role]:
        """Returns the roles of the header ``Authorization: Bearer KEY``; every key is compared, in constant time."""
        scheme, _, key = (authorization or "").partition(" ")
        digest, roles = _digest(key.strip()), set[Role]()
        for role, valid in self._digests:
            if hmac.compare_digest(digest, valid) and scheme.lower() == "bearer":
                roles |= {"read", role}
        return roles


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: keys cannot be read ({error}); give a text file of `read KEY` lines") from None


def _checked(role: str, key: str, location: str) -> tuple[Role, str]:
    if len(key) < MIN_KEY_LENGTH:
        raise InputError(
            f"{location}: a key of {len(key)} characters; take {MIN_KEY_LENGTH} or more, as of `openssl rand -hex 16`"
        )
    return ("write" if role == "write" else "read"), key
