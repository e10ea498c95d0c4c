"""Vectors by key, in files that are never changed; at a folder or in object storage."""

from __future__ import annotations

import hashlib
import json
import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from rabtriever.errors import InputError
from rabtriever.persistence.files import Folder
from rabtriever.persistence.object_store import is_uri

VECTORS_PER_SHARD = 1024  # an interruption loses fewer
SUFFIX = ".safetensors"
READERS = 16  # shards whose keys are read at a time: object storage answers slowly, but many at once
_DTYPES = {"F32": np.float32, "U8": np.uint8}


class VectorFolder:
    """Vectors by key in shards, safetensors files with ``keys`` uint8 (n, 16) and ``vectors`` float32 (n, width).

    In memory are only the keys. Several processes may write to one folder; each sees what was there when it began.

    Args:
        place: Path or URI (:class:`rabtriever.persistence.files.Folder`); nothing need be there.
        mirror: Folder of this machine to which shards of a URI are copied when their vectors are read; None copies
            nothing.

    Raises:
        InputError: a shard is broken.
        StorageError: the place cannot be read.
    """

    def __init__(self, place: str | Path, mirror: Path | None = None) -> None:
        self.folder = Folder(place)
        self._mirror = Folder(mirror) if mirror is not None and is_uri(self.folder.uri) else None
        self._rows: dict[bytes, tuple[str, int]] = {}  # key -> shard and row
        shards = [name for name in self.folder.names() if name.endswith(SUFFIX)]
        copied = set(self._mirror.names()) if self._mirror else set()
        with ThreadPoolExecutor(READERS) as pool:
            folders = (self._mirror if self._mirror and name in copied else self.folder for name in shards)
            for name, table in zip(shards, pool.map(_read, folders, shards, ["keys"] * len(shards)), strict=True):
                self._add(name, table)

    def __contains__(self, key: bytes) -> bool:
        """Returns whether there is a vector of this key."""
        return key in self._rows

    def __iter__(self) -> Iterator[bytes]:
        """Yields the keys."""
        return iter(self._rows)

    def __len__(self) -> int:
        """Returns the number of keys."""
        return len(self._rows)

    def read(self, keys: Sequence[bytes]) -> np.ndarray:
        """Returns the vectors of keys that are there, float32 (n, width); of no keys, (0, 0)."""
        by_shard: dict[str, list[int]] = defaultdict(list)
        for i, key in enumerate(keys):
            by_shard[self._rows[key][0]].append(i)
        result = np.empty((len(keys), 0), np.float32)
        for shard, positions in by_shard.items():
            vectors = _read(self._folder_of(shard), shard, "vectors")
            if not result.shape[1]:
                result = np.empty((len(keys), vectors.shape[1]), np.float32)
            result[positions] = vectors[[self._rows[keys[i]][1] for i in positions]]
        return result

    def write(self, keys: Sequence[bytes], vectors: np.ndarray) -> str:
        """Writes a shard, completely or not at all, and returns its name; raises StorageError."""
        name, table = write_shard(self.folder, keys, vectors)
        self._add(name, table)
        return name

    def add(self, shard: str) -> None:
        """Takes note of a shard that another process wrote since this one began; raises InputError if it is broken."""
        self._add(shard, _read(self.folder, shard, "keys"))

    def _add(self, shard: str, table: np.ndarray) -> None:
        self._rows.update((bytes(key), (shard, row)) for row, key in enumerate(table))

    def _folder_of(self, shard: str) -> Folder:
        """Returns where a shard is read: of a URI the mirror, to which it is copied first."""
        if self._mirror is None:
            return self.folder
        if not self._mirror.exists(shard) and (content := self.folder.read(shard)) is not None:
            self._mirror.write(shard, content)
        return self._mirror


def text_key(*parts: str) -> bytes:
    """Returns 16 bytes that stand for some texts in their order."""
    return hashlib.sha256(json.dumps(parts).encode()).digest()[:16]


def shard_name(keys: Sequence[bytes]) -> str:
    """Returns the name of the shard that holds just these keys."""
    return f"{hashlib.sha256(b''.join(keys)).hexdigest()[:16]}{SUFFIX}"


def write_shard(folder: Folder, keys: Sequence[bytes], vectors: np.ndarray) -> tuple[str, np.ndarray]:
    """Writes a shard of keys and their vectors (n, width); returns its name and the keys, uint8 (n, 16)."""
    table, name = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1), shard_name(keys)
    folder.write(name, save({"keys": table, "vectors": np.ascontiguousarray(vectors, np.float32)}))
    return name, table


def _read(folder: Folder, shard: str, name: str) -> np.ndarray:
    """Returns one array of a shard; the file's others are not read."""
    try:
        with folder.opened(shard) as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > file.size():
                raise ValueError("cut off")
            header = json.loads(file.read(size))[name]
            begin, end = header["data_offsets"]
            file.seek(8 + size + begin)
            return np.frombuffer(file.read(end - begin), _DTYPES[header["dtype"]]).reshape(header["shape"])
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise InputError(f"{folder.uri}/{shard}: not a readable cache file ({error}); delete it") from error
