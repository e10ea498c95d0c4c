"""Segments: the table's latents as the kernel reads them, in folders of arrays that are mapped into memory.

They are derived from the table and cannot go stale: a segment is matched with a version by its rows' keys, which no two
rows ever share (:mod:`rabtriever.index.snapshot` explains keys, ordinals and positions). Rows that no segment holds are
read from the table; rows that a version no longer has are masked. A folder appears under its name when it is complete,
so several processes may make, read and drop segments at the same time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from rabtriever.caching import cache_dir, remove_stale
from rabtriever.errors import InputError, StorageError
from rabtriever.index.clustering import cluster
from rabtriever.index.mapped import advise
from rabtriever.index.quantization import PRECISIONS, QuantizedLatents
from rabtriever.persistence.object_store import is_remote
from rabtriever.scoring.layout import ScoreLayout

FORMAT = 3
META = "segment.json"  # in every whole segment
MIN_DOCUMENTS_FOR_CLUSTERS = 100_000  # smaller segments are one cluster
DOCUMENTS_PER_CLUSTER = 40
STALE_AFTER_SECONDS = 24 * 3600  # age at which a half-written segment is removed
MAX_WAIT_SECONDS = 600  # for another process that makes a segment
ROWS_PER_COPY = 2**16
CODE_ARRAYS, CODE_NUMBERS = ("blocks", "gain", "bias", "low", "step"), ("unit", "error", "size", "offset", "max_gain")
ARRAYS = ("keys", "order", "latents", "starts", "centres", *CODE_ARRAYS)
IN_MEMORY = ("low", "step", "starts", "centres")  # small arrays, read whole; the others are mapped


@dataclass(frozen=True)
class Segment:
    """Some of a table's rows, sorted by cluster.

    Attributes:
        keys: int64 (n,), the key at each position.
        order: int32 (n,), the rank of each position's row among the rows that the segment was made of.
        latents: float32 (n, dim), the latent at each position.
        codes: The same for the kernel.
        starts: int64 (n_clusters + 1,), the first position of each cluster, and n.
        centres: float32 (n_clusters, dim), the clusters' mean latents.
        folder: Its files.
    """

    keys: np.ndarray
    order: np.ndarray
    latents: np.ndarray
    codes: QuantizedLatents
    starts: np.ndarray
    centres: np.ndarray
    folder: Path

    @property
    def nbytes(self) -> int:
        """Bytes on disk, headers left out."""
        return sum(array.nbytes for array in (self.keys, self.order, self.latents, self.codes))


class Segments:
    """An index's segments: in the index itself, or beside those in the user's cache if it is remote or read-only.

    Args:
        uri: The index.
        fingerprint: Of the model that made its latents.
        layout: What the latents' columns mean.
        precision: Number format of the scan.
        device: Where torch scans them; None: the CPU's kernel does.
        part: The shard whose segments these are; empty: the whole index's.

    Attributes:
        uri: The index.
        name: Of their folder.
        folder: Where new ones are written.
        folders: Where they are looked for.
    """

    def __init__(
        self,
        uri: str,
        fingerprint: str,
        layout: ScoreLayout,
        precision: str,
        device: str | None = None,
        part: str = "",
    ) -> None:
        if precision not in PRECISIONS:
            raise InputError(f"precision {precision!r}: choose one of {', '.join(PRECISIONS)}", param="precision")
        self.uri, self.layout, self.precision, self.device = uri, layout, precision, device
        cached = cache_dir() / "index" / hashlib.sha256(uri.encode()).hexdigest()[:16]
        bases = [cached] if is_remote(uri) else [Path(uri)] if os.access(uri, os.W_OK) else [Path(uri), cached]
        self.name = f"{precision}-{fingerprint[:16]}" + (f"-{part}" if part else "")
        self.folders = [base / "segments" / self.name for base in bases]
        self.folder = self.folders[-1]

    def info(self) -> dict[str, Any]:
        """Returns the precision and, of the segments on disk, their number, clusters and bytes."""
        found = self.load()
        return {
            "precision": self.precision,
            "segments": len(found),
            "clusters": sum(len(segment.centres) for segment in found),
            "segment_bytes": sum(segment.nbytes for segment in found),
        }

    def load(self, known: Collection[Path] = ()) -> list[Segment]:
        """Returns all whole segments, the largest first, and removes what was left half-written long ago.

        Args:
            known: Folders of segments to leave out.
        """
        remove_stale(self.folder.glob(".*"), STALE_AFTER_SECONDS)
        paths = (path for folder in self.folders for path in folder.glob("[!.]*") if path not in known)
        found = [self._read(path) for path in paths]
        return sorted(filter(None, found), key=lambda segment: -len(segment.keys))

    @contextmanager
    def making(self) -> Iterator[None]:
        """Lets one process at a time make a segment, so that the others find it and make none of the same rows.

        Without the lock a segment may be made twice, which costs disk alone: a process that hangs or a file system
        without locks stops nobody.
        """
        lock = FileLock(self.folder.with_suffix(".lock"))  # beside the folder, which holds segments alone
        with suppress(OSError, NotImplementedError, Timeout):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=MAX_WAIT_SECONDS)
        try:
            yield
        finally:
            lock.release()

    def make(self, keys: np.ndarray, latents: np.ndarray) -> Segment:
        """Writes a segment of rows: keys int64 (n,), in the order of insertion, and latents float32 (n, dim)."""
        order, starts = np.arange(len(keys)), np.array([0, len(keys)])
        if len(keys) >= MIN_DOCUMENTS_FOR_CLUSTERS:
            clusters = cluster(latents[:, :-2], len(keys) // DOCUMENTS_PER_CLUSTER)
            order = np.argsort(clusters, kind="stable")
            starts = np.searchsorted(clusters[order], np.arange(clusters.max() + 2))
        name = uuid.uuid4().hex
        temporary = self.folder / f".{name}"
        try:
            temporary.mkdir(parents=True)
            sorted_ = np.lib.format.open_memmap(temporary / "latents.npy", "w+", np.float32, latents.shape)
            for first in range(0, len(order), ROWS_PER_COPY):
                sorted_[first : first + ROWS_PER_COPY] = latents[order[first : first + ROWS_PER_COPY]]
            codes = QuantizedLatents.encode(sorted_, self.layout, self.precision)
            centres = [sorted_[first:last].mean(0) for first, last in zip(starts, starts[1:], strict=False)]
            arrays = {"keys": keys[order], "order": order.astype(np.int32), "starts": starts}
            arrays |= {"centres": np.array(centres, np.float32), **{name: getattr(codes, name) for name in CODE_ARRAYS}}
            for array, values in arrays.items():
                np.save(temporary / f"{array}.npy", values, allow_pickle=False)
            sorted_.flush()
            numbers = {name: getattr(codes, name) for name in CODE_NUMBERS}
            meta = {"format": FORMAT, "layout": self.layout.to_dict(), **numbers}
            (temporary / META).write_text(json.dumps(meta))
            os.replace(temporary, self.folder / name)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise self._cannot_be_written(error) from error
        made = self._read(self.folder / name)
        assert made is not None
        return made

    def temporary_array(self, shape: tuple[int, int]) -> np.ndarray:
        """Makes a float32 array on disk, which goes with its last reference."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as file:
                file.truncate(4 * shape[0] * shape[1])
                return np.memmap(file, np.float32, "r+", shape=shape)
        except OSError as error:
            raise self._cannot_be_written(error) from error

    def drop(self, segment: Segment) -> None:
        """Removes a segment, unless it is a read-only index's; a process that has it mapped can go on reading it."""
        if segment.folder.parent == self.folder:
            shutil.rmtree(segment.folder, ignore_errors=True)

    def _cannot_be_written(self, error: OSError) -> StorageError:
        remedy = "make room, or set RABTRIEVER_CACHE to a folder that can be written"
        return StorageError(f"{self.folder}: cannot be written ({error.strerror}); {remedy}")

    def _read(self, folder: Path) -> Segment | None:
        try:
            meta = json.loads((folder / META).read_text())
            if meta["format"] != FORMAT or meta["layout"] != self.layout.to_dict():
                return None
            arrays = {
                name: np.load(folder / f"{name}.npy", None if name in IN_MEMORY else "r", allow_pickle=False)
                for name in ARRAYS
            }
            codes = {name: arrays.pop(name) for name in CODE_ARRAYS} | {name: meta[name] for name in CODE_NUMBERS}
        except (OSError, ValueError, KeyError, EOFError):
            return None  # half-written or damaged: it is made anew
        advise(arrays["latents"], "MADV_RANDOM")  # rows are picked one by one: nothing is to be read ahead
        return Segment(**arrays, codes=QuantizedLatents(**codes, layout=self.layout), folder=folder)
