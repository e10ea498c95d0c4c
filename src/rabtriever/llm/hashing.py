"""SHA-256 of large files, computed once for each version of a file."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from rabtriever.caching import cache_dir
from rabtriever.persistence.folder import write_json

CACHE = "file_hashes.json"


def file_hash(path: Path) -> str:
    """Returns the SHA-256 of a file, as hex digits.

    ``file_hashes.json`` in :func:`rabtriever.caching.cache_dir` holds it for next time, with the file's size and
    modification time; a file of another size or time is read again. A cache that cannot be read or written is ignored.
    """
    path = path.resolve()
    status = path.stat()
    version = [status.st_size, status.st_mtime_ns]
    match _read_cache().get(str(path)):
        case [*cached, str(digest)] if cached == version:
            return digest
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    entries = {name: entry for name, entry in _read_cache().items() if Path(name).exists()}  # others may have added
    with suppress(OSError):  # a read-only home: the file is hashed again next time
        cache_dir().mkdir(parents=True, exist_ok=True)
        write_json(cache_dir() / CACHE, {**entries, str(path): [*version, digest]})
    return digest


def _read_cache() -> dict[str, Any]:
    try:
        entries = json.loads((cache_dir() / CACHE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}
