"""The columns of an index's table, and the model that its latents belong to, in the schema's metadata."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from rabtriever.data import Document
from rabtriever.errors import InputError
from rabtriever.index.encoding import Retriever
from rabtriever.scoring.layout import ScoreLayout

FORMAT = 4
METADATA_KEY = b"rabtriever"
JSON = pa.json_(pa.utf8())
TEXTS = ("id", "title", "text")


@dataclass(frozen=True)
class ModelInfo:
    """The retriever that made the latents; ``source`` is the folder it was loaded from, an encoder's name, or None."""

    fingerprint: str
    layout: ScoreLayout
    source: str | None

    @classmethod
    def of(cls, retriever: Retriever) -> ModelInfo:
        """Describes a retriever."""
        source = retriever.name_or_path
        return cls(retriever.fingerprint, retriever.layout, source)

    def check(self, fingerprint: str, uri: str) -> None:
        """Raises InputError if a retriever is not the one that made the latents of the index at ``uri``."""
        if fingerprint != self.fingerprint:
            made, given = self.fingerprint[:12], fingerprint[:12]
            message = f"{uri}: made by model {made}, not by {given}; open it with its own model or index again"
            raise InputError(message, param="retriever")


def table_schema(model: ModelInfo) -> pa.Schema:
    """Returns the schema of an index of this model's latents."""
    columns = {
        **dict.fromkeys(TEXTS, pa.utf8()),
        "metadata": JSON,
        "key": pa.int64(),  # identifies the row in every version, see snapshot.py
        "added": pa.int64(),  # ascending in the order of insertion, which row ids lose when files merge
        "latent": pa.list_(pa.float32(), model.layout.width),
        "gain": pa.float32(),
        "bias": pa.float32(),
    }
    return pa.schema(columns, metadata={METADATA_KEY: json.dumps({"format": FORMAT, **asdict(model)})})


def writable_schema(schema: pa.Schema) -> pa.Schema:
    """Returns a table's schema with its JSON column as a writer must give it: Lance reports the storage type."""
    return pa.schema([pa.field("metadata", JSON) if field.name == "metadata" else field for field in schema])


def read_model(schema: pa.Schema, uri: str) -> ModelInfo:
    """Returns the model of a table's latents; raises InputError for a table of other software or another release."""
    if METADATA_KEY not in (schema.metadata or {}):
        raise InputError(f"{uri}: its table was not made by rabtriever; make an index with `rabtriever index`")
    stored = json.loads(schema.metadata[METADATA_KEY])
    if stored.pop("format", 1) != FORMAT:
        raise InputError(f"{uri}: an index of another release; index the documents again")
    return ModelInfo(**{**stored, "layout": ScoreLayout(**stored["layout"])})


def record_batches(
    schema: pa.Schema, batches: Iterator[tuple[Sequence[Document], np.ndarray]]
) -> Iterator[pa.RecordBatch]:
    """Yields documents with their latents float32 (n, dim) as rows; metadata must be JSON."""
    added = time.time_ns()  # a row takes longer than a nanosecond: the next transaction begins behind this one
    for documents, latents in batches:
        yield record_batch(schema, documents, latents, np.arange(added, added + len(documents)))
        added += len(documents)


def record_batch(
    schema: pa.Schema, documents: Sequence[Document], latents: np.ndarray, added: np.ndarray
) -> pa.RecordBatch:
    """Returns documents with their latents float32 (n, dim) and their places int64 (n,) in the order of insertion."""
    flat = np.ascontiguousarray(latents[:, :-2], dtype=np.float32).ravel()
    metadata = pa.array([json.dumps(dict(document.metadata)) for document in documents], pa.utf8())
    columns = [
        *(pa.array([getattr(document, name) for document in documents], pa.utf8()) for name in TEXTS),
        pa.ExtensionArray.from_storage(JSON, metadata),
        pa.array(np.random.default_rng().integers(2**63 - 1, size=len(documents))),
        pa.array(added, pa.int64()),
        pa.FixedSizeListArray.from_arrays(pa.array(flat), latents.shape[1] - 2),
        pa.array(latents[:, -2], pa.float32()),
        pa.array(latents[:, -1], pa.float32()),
    ]
    return pa.record_batch(columns, schema=schema)
