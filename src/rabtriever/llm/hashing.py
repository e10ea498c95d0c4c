"""SHA-256 of large files, computed once for each version of a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
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
    cached = _read_cache().get(str(path))
    if isinstance(cached, list) and cached[:2] == version and isinstance(cached[-1], str):
        return cached[-1]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    entries = _read_cache()  # again: another process may have added to it meanwhile
    existing = {name: entry for name, entry in entries.items() if Path(name).exists()}
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        write_json(cache_dir() / CACHE, {**existing, str(path): [*version, digest]})
    except OSError:
        pass  # a read-only home: the file is hashed again next time
    return digest


def hash_files(paths: Sequence[Path]) -> str:
    """Returns one hash of several files' content, in the order given: of one file, its own."""
    digests = [file_hash(path) for path in paths]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _read_cache() -> dict[str, Any]:
    try:
        entries = json.loads((cache_dir() / CACHE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}
