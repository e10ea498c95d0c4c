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
from rabtriever.persistence import objects

VECTORS_PER_SHARD = 1024  # an interruption loses fewer
SUFFIX = ".safetensors"
READERS = 16  # shards whose keys are read at a time: object storage answers slowly, but many at once
_DTYPES = {"F32": np.float32, "U8": np.uint8}


class VectorFolder:
    """Vectors by key in shards, safetensors files with ``keys`` uint8 (n, 16) and ``vectors`` float32 (n, width).

    In memory are only the keys. Several processes may write to one folder; each sees what was there when it began.

    Args:
        place: Path or URI (:mod:`rabtriever.persistence.objects`); nothing need be there.
        mirror: Folder of this machine to which shards of a URI are copied when their vectors are read; None copies
            nothing.

    Raises:
        InputError: a shard is broken.
        StorageError: the place cannot be read.
    """

    def __init__(self, place: str | Path, mirror: Path | None = None) -> None:
        self.place = objects.as_place(place)
        self._mirror = None if mirror is None or not objects.is_remote(self.place) else objects.as_place(mirror)
        self._rows: dict[bytes, tuple[str, int]] = {}  # key -> shard and row
        shards = [name for name in objects.names(self.place) if name.endswith(SUFFIX)]
        copied = set(objects.names(self._mirror)) if self._mirror else set()
        with ThreadPoolExecutor(READERS) as pool:
            places = (self._mirror if name in copied and self._mirror else self.place for name in shards)
            for name, table in zip(shards, pool.map(_read, places, shards, ["keys"] * len(shards)), strict=True):
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
            vectors = _read(self._near(shard), shard, "vectors")
            if not result.shape[1]:
                result = np.empty((len(keys), vectors.shape[1]), np.float32)
            result[positions] = vectors[[self._rows[keys[i]][1] for i in positions]]
        return result

    def write(self, keys: Sequence[bytes], vectors: np.ndarray) -> str:
        """Writes a shard, completely or not at all, and returns its name; raises StorageError."""
        name, table = write_shard(self.place, keys, vectors)
        self._add(name, table)
        return name

    def add(self, shard: str) -> None:
        """Takes note of a shard that another process wrote since this one began; raises InputError if it is broken."""
        self._add(shard, _read(self.place, shard, "keys"))

    def _add(self, shard: str, table: np.ndarray) -> None:
        self._rows.update((bytes(key), (shard, row)) for row, key in enumerate(table))

    def _near(self, shard: str) -> str:
        """Returns where a shard is read: of a URI the mirror, to which it is copied first."""
        if self._mirror is None:
            return self.place
        if not objects.exists(self._mirror, shard):
            objects.write(self._mirror, shard, objects.read(self.place, shard))
        return self._mirror


def text_key(*parts: str) -> bytes:
    """Returns 16 bytes that stand for some texts in their order."""
    return hashlib.sha256(json.dumps(parts).encode()).digest()[:16]


def shard_name(keys: Sequence[bytes]) -> str:
    """Returns the name of the shard that holds just these keys."""
    return f"{hashlib.sha256(b''.join(keys)).hexdigest()[:16]}{SUFFIX}"


def write_shard(place: str, keys: Sequence[bytes], vectors: np.ndarray) -> tuple[str, np.ndarray]:
    """Writes a shard of keys and their vectors (n, width); returns its name and the keys, uint8 (n, 16)."""
    table, name = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1), shard_name(keys)
    objects.write(place, name, save({"keys": table, "vectors": np.ascontiguousarray(vectors, np.float32)}))
    return name, table


def _read(place: str, shard: str, name: str) -> np.ndarray:
    """Returns one array of a shard; the file's others are not read."""
    try:
        with objects.open_file(place, shard) as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > file.size():
                raise ValueError("cut off")
            header = json.loads(file.read(size))[name]
            begin, end = header["data_offsets"]
            file.seek(8 + size + begin)
            return np.frombuffer(file.read(end - begin), _DTYPES[header["dtype"]]).reshape(header["shape"])
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise InputError(f"{place}/{shard}: not a readable cache file ({error}); delete it") from error
