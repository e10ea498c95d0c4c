"""Documents on their way into the table: checked, encoded, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from rabtriever.data import Document
from rabtriever.errors import InputError
from rabtriever.progress import Progress
from rabtriever.retriever import Rabtriever

BATCH = 1024  # documents encoded and written at a time


def batches(
    documents: Iterable[Document],
    latents: Iterable[np.ndarray] | None,
    retriever: Rabtriever,
    known: Callable[[Sequence[str]], set[str]],
    show: bool,
) -> Iterator[tuple[list[Document], np.ndarray]]:
    """Batches of documents with their latents, float32 (n, m + 1).

    Args:
        documents: A stream; but for their ids, memory stays constant.
        latents: Theirs, float32 (m + 1,) each; encoded by the retriever if None.
        retriever: Whose latents these are.
        known: Tells which of some ids must not come again.
        show: Tell on stderr how far it is.

    Raises:
        InputError: an id that is empty, known or comes twice, a document without text, latents of another number or
            width, or some that are not finite.
    """
    seen: set[str] = set()
    stream, given = iter(documents), None if latents is None else iter(latents)
    with Progress("documents indexed" if show else None) as bar:
        while batch := list(islice(stream, BATCH)):
            there = known([document.id for document in batch])
            for document in batch:
                if not document.id or document.id in seen or document.id in there:
                    raise InputError(f"add: document id {document.id!r} is empty or there already; ids must differ")
                seen.add(document.id)
            if given is None:
                values = retriever.encode_document([document.content for document in batch])
            else:
                values = _checked(batch, list(islice(given, len(batch))), retriever.dim)
            wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
            if len(wrong):
                raise InputError(f"add: the latent of document {batch[wrong[0]].id!r} is not finite")
            yield batch, values
            bar.advance(len(batch))
    if given is not None and next(given, None) is not None:
        raise InputError("add: more latents than documents; give one for each")


def _checked(documents: list[Document], latents: list[np.ndarray], dim: int) -> np.ndarray:
    if len(latents) < len(documents) or any(np.shape(latent) != (dim,) for latent in latents):
        raise InputError(f"add: give each document one latent of {dim} numbers, from {documents[0].id!r} on")
    return np.asarray(latents, np.float32)
