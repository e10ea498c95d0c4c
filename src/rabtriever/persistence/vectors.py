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

VECTORS_PER_FILE = 1024  # an interruption loses fewer
SUFFIX = ".safetensors"
READERS = 16  # files whose keys are read at a time: object storage answers slowly, but many at once
_DTYPES = {"F32": np.float32, "U8": np.uint8}


class VectorFolder:
    """Vectors by key in safetensors files with ``keys`` uint8 (n, 16) and ``vectors`` float32 (n, width).

    In memory are only the keys. Several processes may write to one folder; each sees what was there when it began.

    Args:
        uri: Path or URI (:class:`rabtriever.persistence.files.Folder`); nothing need be there.
        mirror: Folder of this machine to which files of a URI are copied when their vectors are read; None copies
            nothing.

    Raises:
        InputError: a file is broken.
        StorageError: it cannot be read.
    """

    def __init__(self, uri: str | Path, mirror: Path | None = None) -> None:
        self.folder = Folder(uri)
        self._mirror = Folder(mirror) if mirror is not None and is_uri(self.folder.uri) else None
        self._rows: dict[bytes, tuple[str, int]] = {}  # key -> file and row
        names = [name for name in self.folder.names() if name.endswith(SUFFIX)]
        copied = set(self._mirror.names()) if self._mirror else set()
        with ThreadPoolExecutor(READERS) as pool:
            folders = (self._mirror if self._mirror and name in copied else self.folder for name in names)
            for name, table in zip(names, pool.map(_read, folders, names, ["keys"] * len(names)), strict=True):
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
        by_file: dict[str, list[int]] = defaultdict(list)
        for i, key in enumerate(keys):
            by_file[self._rows[key][0]].append(i)
        result = np.empty((len(keys), 0), np.float32)
        for file, positions in by_file.items():
            vectors = _read(self._folder_of(file), file, "vectors")
            if not result.shape[1]:
                result = np.empty((len(keys), vectors.shape[1]), np.float32)
            result[positions] = vectors[[self._rows[keys[i]][1] for i in positions]]
        return result

    def write(self, keys: Sequence[bytes], vectors: np.ndarray) -> str:
        """Writes a file, completely or not at all, and returns its name; raises StorageError."""
        name, table = write_vectors(self.folder, keys, vectors)
        self._add(name, table)
        return name

    def add(self, name: str) -> None:
        """Takes note of a file that another process wrote since this one began; raises InputError if it is broken."""
        self._add(name, _read(self.folder, name, "keys"))

    def _add(self, name: str, table: np.ndarray) -> None:
        self._rows.update((bytes(key), (name, row)) for row, key in enumerate(table))

    def _folder_of(self, name: str) -> Folder:
        """Returns where a file is read: of a URI the mirror, to which it is copied first."""
        if self._mirror is None:
            return self.folder
        if not self._mirror.exists(name) and (content := self.folder.read(name)) is not None:
            self._mirror.write(name, content)
        return self._mirror


def text_key(*parts: str) -> bytes:
    """Returns 16 bytes that stand for some texts in their order."""
    return hashlib.sha256(json.dumps(parts).encode()).digest()[:16]


def file_name(keys: Sequence[bytes]) -> str:
    """Returns the name of the file that holds just these keys."""
    return f"{hashlib.sha256(b''.join(keys)).hexdigest()[:16]}{SUFFIX}"


def write_vectors(folder: Folder, keys: Sequence[bytes], vectors: np.ndarray) -> tuple[str, np.ndarray]:
    """Writes a file of keys and their vectors (n, width); returns its name and the keys, uint8 (n, 16)."""
    table, name = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1), file_name(keys)
    folder.write(name, save({"keys": table, "vectors": np.ascontiguousarray(vectors, np.float32)}))
    return name, table


def _read(folder: Folder, name: str, part: str) -> np.ndarray:
    """Returns one array of a file; its others are not read."""
    try:
        with folder.opened(name) as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > file.size():
                raise ValueError("cut off")
            header = json.loads(file.read(size))[part]
            begin, end = header["data_offsets"]
            file.seek(8 + size + begin)
            return np.frombuffer(file.read(end - begin), _DTYPES[header["dtype"]]).reshape(header["shape"])
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise InputError(f"{folder.uri}/{name}: not a readable cache file ({error}); delete it") from error
