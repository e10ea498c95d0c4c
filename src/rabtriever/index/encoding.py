"""What an index asks a retriever to encode: queries, and documents on their way into the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np

from rabtriever.caching import LRUCache
from rabtriever.data import Document
from rabtriever.data.metadata import why_not_storable
from rabtriever.errors import ConflictError, InputError, TextError, has_half_character, shorten
from rabtriever.index.learned import Learned
from rabtriever.progress import bar
from rabtriever.rerankers.base import Reranker
from rabtriever.scoring.calibration import Calibration
from rabtriever.scoring.layout import ScoreLayout
from rabtriever.scoring.refusal import Refusal

DOCUMENTS_PER_BATCH = 1024  # encoded and written at a time
MAX_REUSED_BYTES = 2**26  # of texts and latents that are encoded once if they come again


class Retriever(Protocol):
    """What an index needs of a retriever; :class:`rabtriever.Rabtriever` explains the attributes."""

    fingerprint: str
    layout: ScoreLayout
    calibration: Calibration
    reranked_calibration: Calibration
    refusal: Refusal
    name_or_path: str | None

    @property
    def rerank_share(self) -> float:
        """Share of a reranker's log-odds in the score of a hit that it read."""

    @property
    def reranker(self) -> Reranker | None:
        """Scorer of the best hits if a search asks for one."""

    def encode_query(self, inputs: Sequence[str]) -> Any:  # noqa: ANN401
        """Returns latents float32 (n, dim)."""

    def encode_document(self, inputs: Sequence[str]) -> Any:  # noqa: ANN401
        """Returns latents float32 (n, dim)."""

    def with_learned(self, learned: Learned) -> Retriever:
        """Returns a retriever of the same models, with what an index's searches taught."""

    def encoder_only(self, latents: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """Returns queries' latents float32 (n, dim) as the encoder's similarity alone ranks by."""


def encode_queries(retriever: Retriever, texts: Sequence[str]) -> np.ndarray:
    """Returns the latents float32 (n, dim) of queries; an error names the query's text."""
    try:
        latents: np.ndarray = retriever.encode_query(texts)
    except TextError as error:
        message = f"query {shorten(error.text)} {error.fault}"
        raise InputError(message, param="query", position=error.position) from None
    return latents


def encode_batches(
    documents: Iterable[Document],
    latents: Iterable[np.ndarray] | None,
    retriever: Retriever,
    existing_ids: Callable[[Sequence[str]], set[str]],
    show_progress_bar: bool,
) -> Iterator[tuple[list[Document], np.ndarray]]:
    """Yields batches of documents with their latents, float32 (n, dim).

    Equal texts have equal latents, although an encoder's last digits depend on the texts it reads beside one.

    Args:
        documents: A stream; but for their ids, memory stays constant.
        latents: Their latents, float32 (dim,) each; encoded by the retriever if None.
        retriever: The retriever that makes these latents.
        existing_ids: Returns those of some ids that must not be added again.
        show_progress_bar: Whether to show progress on stderr.

    Raises:
        ConflictError, InputError: as of :meth:`rabtriever.Index.add`.
    """
    seen: set[str] = set()
    reused: LRUCache[str, np.ndarray] = LRUCache(MAX_REUSED_BYTES)
    stream, given = iter(documents), None if latents is None else iter(latents)
    with bar(None, "documents indexed", shown=show_progress_bar) as done:
        while batch := list(islice(stream, DOCUMENTS_PER_BATCH)):
            _check_documents(batch)
            _check_ids(batch, seen, existing_ids([document.id for document in batch]))
            if given is None:
                values = encode_batch(batch, retriever, reused)
            else:
                values = _stack(batch, list(islice(given, len(batch))), retriever.layout.dim)
                _check_latents(batch, values)
            yield batch, values
            done.update(len(batch))
    if given is not None and next(given, None) is not None:
        raise InputError("add: more latents than documents; give one for each")


def encode_batch(batch: Sequence[Document], retriever: Retriever, reused: LRUCache[str, np.ndarray]) -> np.ndarray:
    """Returns documents' latents float32 (n, dim); those of texts that are in ``reused`` are taken from there.

    Raises:
        InputError: a document that cannot be encoded; the message names it.
    """
    values = _encode(batch, retriever, reused)
    _check_latents(batch, values)
    return values


def _check_latents(batch: Sequence[Document], values: np.ndarray) -> None:
    """Raises InputError for the first latent, of float32 (n, dim), by which no search could rank."""
    not_finite = np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist()
    if not_finite:
        fault = f"the latent of document {batch[not_finite[0]].id!r} is NaN or infinite"
        raise InputError(f"add: {fault}; check the model's weights", param="document")
    negative = np.flatnonzero(values[:, -2] < 0).tolist()
    if negative:
        name, gain = batch[negative[0]].id, values[negative[0], -2]
        raise InputError(f"add: document {name!r}: gain {gain:g}; give one of 0 or more", param="document")


def _check_documents(batch: Sequence[Document]) -> None:
    """Raises InputError for the first document that the table would not give back as it is."""
    for document in batch:
        if not document.id:
            raise InputError("add: a document's id is empty; give it one", param="id")
        for name in ("id", "title", "text"):
            value = getattr(document, name)
            if not isinstance(value, str):
                fault = f"is {shorten(value)}; give a string"
            elif has_half_character(value):
                fault = "holds half of a surrogate pair; write the character whole"
            else:
                continue
            raise InputError(f"add: {name} of document {document.id!r} {fault}", param=name)
        if why := why_not_storable(document.metadata):
            raise InputError(f"add: metadata of document {document.id!r}: {why}", param="metadata")


def _check_ids(batch: Sequence[Document], seen: set[str], existing: set[str]) -> None:
    """Raises ConflictError if an id exists or has been ``seen``, to which it is added."""
    for document in batch:
        if document.id in seen or document.id in existing:
            raise ConflictError(f"add: document id {document.id!r} exists already; ids must differ", param="id")
        seen.add(document.id)


def _encode(batch: Sequence[Document], retriever: Retriever, reused: LRUCache[str, np.ndarray]) -> np.ndarray:
    texts = [document.content for document in batch]
    found = {text: reused.get(text) for text in texts}
    missing = [text for text, row in found.items() if row is None]
    try:
        latents: np.ndarray = retriever.encode_document(missing)
    except TextError as error:
        document = batch[texts.index(missing[error.position])]
        message = f"add: document {document.id!r}: {shorten(error.text)} {error.fault}"
        raise InputError(message, param="document") from None
    for text, row in zip(missing, latents, strict=True):
        found[text] = row
        reused.put(text, row.copy(), len(text) + row.nbytes)  # a view would hold the whole batch
    return np.stack([row for text in texts if (row := found[text]) is not None])


def _stack(batch: Sequence[Document], latents: Sequence[np.ndarray], dim: int) -> np.ndarray:
    if len(latents) < len(batch) or any(np.shape(latent) != (dim,) for latent in latents):
        raise InputError(f"add: give each document one latent of {dim} numbers, from {batch[0].id!r} on")
    return np.asarray(latents, np.float32)
