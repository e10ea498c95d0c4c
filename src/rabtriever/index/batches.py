"""Documents on their way into the table: checked and encoded, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from tqdm.auto import tqdm

from rabtriever.data import Document
from rabtriever.errors import ConflictError, InputError
from rabtriever.index.search import Retriever

BATCH = 1024  # documents encoded and written at a time


def encode_batches(
    documents: Iterable[Document],
    latents: Iterable[np.ndarray] | None,
    retriever: Retriever,
    existing_ids: Callable[[Sequence[str]], set[str]],
    show_progress_bar: bool,
) -> Iterator[tuple[list[Document], np.ndarray]]:
    """Yields batches of documents with their latents, float32 (n, width + 1).

    Args:
        documents: A stream; but for their ids, memory stays constant.
        latents: Theirs, float32 (width + 1,) each; encoded by the retriever if None.
        retriever: Whose latents these are.
        existing_ids: Returns which of some ids must not be added again.
        show_progress_bar: Whether to show progress on stderr.

    Raises:
        ConflictError: an id that exists already or comes twice.
        InputError: an id that is empty, a document without text, latents of another number or width, or some that are
            not finite.
    """
    seen: set[str] = set()
    stream, given = iter(documents), None if latents is None else iter(latents)
    with tqdm(desc="documents indexed", unit="", disable=not show_progress_bar) as bar:
        while batch := list(islice(stream, BATCH)):
            existing = existing_ids([document.id for document in batch])
            for document in batch:
                if not document.id:
                    raise InputError("add: a document's id is empty; give it one", param="id")
                if document.id in seen or document.id in existing:
                    message = f"add: document id {document.id!r} exists already; ids must differ"
                    raise ConflictError(message, param="id")
                seen.add(document.id)
            if given is None:
                values = _encode(batch, retriever)
            else:
                values = _checked(batch, list(islice(given, len(batch))), retriever.layout.width + 1)
            not_finite = np.flatnonzero(~np.isfinite(values).all(axis=1))
            if len(not_finite):
                raise InputError(f"add: the latent of document {batch[not_finite[0]].id!r} is NaN or infinite")
            yield batch, values
            bar.update(len(batch))
    if given is not None and next(given, None) is not None:
        raise InputError("add: more latents than documents; give one for each")


def _encode(batch: Sequence[Document], retriever: Retriever) -> np.ndarray:
    try:
        latents: np.ndarray = retriever.encode_document([document.content for document in batch])
    except InputError as error:
        if error.position is None:
            raise
        raise InputError(f"add: document {batch[error.position].id!r}: {error}", param="document") from None
    return latents


def _checked(documents: list[Document], latents: list[np.ndarray], dim: int) -> np.ndarray:
    if len(latents) < len(documents) or any(np.shape(latent) != (dim,) for latent in latents):
        raise InputError(f"add: give each document one latent of {dim} numbers, from {documents[0].id!r} on")
    return np.asarray(latents, np.float32)
