"""What the table holds, as the kernel wants it: folders of arrays beside the table, mapped into memory.

They are derived, never the truth: a segment is known by its rows' keys, which no two rows ever share, so it cannot go
stale; what it lacks is read from the table, what is no longer there is masked. A folder appears under its name when it
is complete, and several processes may make, read and drop segments at the same time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rabtriever.caching import cache_dir
from rabtriever.errors import StorageError
from rabtriever.index.clustering import cluster
from rabtriever.index.mapped import advise_random
from rabtriever.index.quantization import QuantizedLatents
from rabtriever.kernels import BLOCK
from rabtriever.scoring.layout import ScoreLayout

FORMAT = 2
MIN_DOCUMENTS_FOR_CLUSTERS = 100_000  # documents from which on a segment is sorted into clusters
DOCUMENTS_PER_CLUSTER = 40  # documents of a cluster
STALE_AFTER_SECONDS = 24 * 3600  # seconds after which a half-written segment is nobody's
ARRAYS = ("keys", "order", "latents", "blocks", "bias", "low", "step", "starts", "centres")
CODES = ("unit", "error", "size", "offset")


@dataclass(frozen=True)
class Segment:
    """Some of a table's rows.

    Attributes:
        keys: int64 (n,), in the order of the segment's slots.
        order: int32 (n,), the place each slot's row had among the rows when the segment was made.
        latents: float32 (n, m + 1), in the same order.
        codes: The same for the kernel.
        starts: int64 (n_clusters + 1,), the first slot of each cluster; two numbers if there are no clusters.
        centres: float32 (n_clusters, m + 1), their mean latents.
        folder: Where it lies.
    """

    keys: np.ndarray
    order: np.ndarray
    latents: np.ndarray
    codes: QuantizedLatents
    starts: np.ndarray
    centres: np.ndarray
    folder: Path


class Segments:
    """The folder of an index's segments.

    Args:
        uri: The index; its segments lie in it, or in the user's cache folder if it is not on this machine or read-only.
        fingerprint: Of the model.
        layout: What the latents' columns mean.
        precision: Of the codes: int8, float16 or float32.
        device: Where torch scans float32 latents instead; None: the kernel scans the codes.
    """

    def __init__(
        self, uri: str, fingerprint: str, layout: ScoreLayout, precision: str, device: str | None = None
    ) -> None:
        self.layout, self.precision, self.device = layout, precision, device
        if "://" not in uri and os.access(uri, os.W_OK):
            base = Path(uri)
        else:
            base = cache_dir() / "index" / hashlib.sha256(uri.encode()).hexdigest()[:16]
        self.folder = base / "segments" / f"{precision}-{fingerprint[:16]}"

    def info(self) -> dict[str, Any]:
        """Returns the precision and the bytes on disk."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return {"precision": self.precision, "segment_bytes": sum(path.stat().st_size for path in files)}

    def load(self) -> list[Segment]:
        """All that are there and whole, the largest first."""
        for path in self.folder.glob(".*"):
            if time.time() - path.stat().st_mtime > STALE_AFTER_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
        found = [self._read(path) for path in self.folder.glob("[!.]*")]
        return sorted((segment for segment in found if segment), key=lambda segment: -len(segment.keys))

    def make(self, keys: np.ndarray, latents: np.ndarray) -> Segment:
        """A segment of these rows, int64 (n,) and float32 (n, m + 1).

        Raises:
            InputError: it cannot be written.
        """
        order, starts = np.arange(len(keys)), np.array([0, len(keys)])
        if len(keys) >= MIN_DOCUMENTS_FOR_CLUSTERS:
            places = cluster(latents[:, :-1], len(keys) // DOCUMENTS_PER_CLUSTER)
            order = np.argsort(places, kind="stable")
            starts = np.searchsorted(places[order], np.arange(places.max() + 2))
        name = uuid.uuid4().hex
        temporary = self.folder / f".{name}"
        try:
            temporary.mkdir(parents=True)
            sorted_ = np.lib.format.open_memmap(temporary / "latents.npy", "w+", np.float32, latents.shape)
            for first in range(0, len(order), 2**16):
                sorted_[first : first + 2**16] = latents[order[first : first + 2**16]]
            codes = QuantizedLatents.encode(sorted_, self.layout, self.precision)
            centres = [sorted_[first:last].mean(0) for first, last in zip(starts, starts[1:], strict=False)]
            arrays = {
                "keys": keys[order],
                "order": order.astype(np.int32),
                "starts": starts,
                "centres": np.array(centres, np.float32),
            }
            arrays |= {name: getattr(codes, name) for name in ("blocks", "bias", "low", "step")}
            for array, values in arrays.items():
                np.save(temporary / f"{array}.npy", values, allow_pickle=False)
            sorted_.flush()
            meta = {"format": FORMAT, "layout": self.layout.to_dict(), **{name: getattr(codes, name) for name in CODES}}
            (temporary / "segment.json").write_text(json.dumps(meta))
            os.replace(temporary, self.folder / name)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise StorageError(
                f"{self.folder}: cannot be written ({error.strerror}); make room, or set RABTRIEVER_CACHE"
            ) from error
        made = self._read(self.folder / name)
        assert made is not None
        return made

    def temporary_array(self, shape: tuple[int, int]) -> np.ndarray:
        """A float32 array on disk, to be filled; it is gone when nobody holds it.

        Raises:
            InputError: there is no room for it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as file:
                file.truncate(4 * shape[0] * shape[1])
                return np.memmap(file, np.float32, "r+", shape=shape)
        except OSError as error:
            raise StorageError(f"{self.folder}: cannot be written ({error.strerror}); make room there") from error

    def drop(self, segment: Segment) -> None:
        """Remove a segment; whoever has it mapped keeps it."""
        shutil.rmtree(segment.folder, ignore_errors=True)

    def _read(self, folder: Path) -> Segment | None:
        try:
            meta = json.loads((folder / "segment.json").read_text())
            if meta["format"] != FORMAT or meta["layout"] != self.layout.to_dict():
                return None
            arrays = {name: np.load(folder / f"{name}.npy", "r", allow_pickle=False) for name in ARRAYS}
            keys, order, latents, blocks, bias, low, step, starts, centres = (arrays[name] for name in ARRAYS)
            n = len(keys)
            if not len(order) == len(latents) == n or len(blocks) != -(-n // BLOCK) or len(bias) != BLOCK * len(blocks):
                return None
            codes = QuantizedLatents(
                blocks, bias, np.array(low), np.array(step), layout=self.layout, **{name: meta[name] for name in CODES}
            )
        except (OSError, ValueError, KeyError, EOFError):
            return None  # half-written or damaged: it is made anew
        advise_random(latents)
        return Segment(keys, order, latents, codes, np.array(starts), np.array(centres), folder)
