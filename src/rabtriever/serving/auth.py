"""API keys and their roles: reading alone, or writing too."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping

from rabtriever.errors import InputError
from rabtriever.persistence.files import read_file

ROLES = ("read", "write")
MIN_KEY_LENGTH = 16


class APIKeys:
    """API keys and their roles; ``write`` includes ``read``. Only digests are held.

    Args:
        path: A file with lines ``read KEY`` or ``write KEY``; blank lines and those that begin with # are skipped.
        environment: Where ``RABTRIEVER_READ_KEYS`` and ``RABTRIEVER_WRITE_KEYS`` are, separated by commas.

    Raises:
        InputError: the file cannot be read, a line is malformed, or a key is too short.
    """

    def __init__(self, path: str | None, environment: Mapping[str, str] = os.environ) -> None:
        found = list(_lines(path)) if path else []
        for role in ROLES:
            name = f"RABTRIEVER_{role.upper()}_KEYS"
            keys = environment.get(name, "").split(",")
            found += [(f"${name}", role, key.strip()) for key in keys if key.strip()]
        for location, _, key in found:
            if len(key) < MIN_KEY_LENGTH:
                remedy = f"take {MIN_KEY_LENGTH} or more, as of `openssl rand -hex 16`"
                raise InputError(f"{location}: a key of {len(key)} characters; {remedy}")
        self._digests = [(role, _digest(key)) for _, role, key in found]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def roles(self, authorization: str) -> set[str]:
        """Returns the roles of the header ``Authorization: Bearer KEY``; every key is compared, in constant time."""
        scheme, _, key = authorization.partition(" ")
        digest, roles = _digest(key.strip()), set[str]()
        for role, valid in self._digests:
            if hmac.compare_digest(digest, valid) and scheme.lower() == "bearer":
                roles |= {"read", role}
        return roles


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _lines(path: str) -> list[tuple[str, str, str]]:
    """Returns where each key of a file is, its role, and the key."""
    try:
        lines = read_file(path).decode("utf-8").splitlines()  # no copy: keys are held as digests alone
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: keys cannot be read ({error}); give a text file of `read KEY` lines") from None
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            words = line.split()
            if len(words) != 2 or words[0] not in ROLES:
                raise InputError(f"{path}, line {number}: write `read KEY` or `write KEY`")
            found.append((f"{path}, line {number}", words[0], words[1]))
    return found
