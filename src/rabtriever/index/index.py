"""An index: documents and their latents in a Lance table, searched by the retriever that made them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rabtriever.data import Document
from rabtriever.errors import InputError
from rabtriever.index.scan import scan
from rabtriever.index.store import Model, Store
from rabtriever.llm.folder import new_folder
from rabtriever.progress import Progress
from rabtriever.retriever import Rabtriever

BATCH = 1024  # documents encoded and written at a time


@dataclass(frozen=True)
class Hit:
    """A document found.

    Attributes:
        id: The document's id.
        probability: That the document is right for the query: its log-odds, calibrated.
        log_odds: The ranking key; the retriever's, or the reranker's where it was asked.
        text: The document as the models read it.
        metadata: As it was added.
    """

    id: str
    probability: float
    log_odds: float
    text: str
    metadata: dict[str, Any]


class Index:
    """Documents at rest. Make one with :meth:`create`, :meth:`build` or :meth:`open`.

    Args:
        store: The table.
        retriever: The retriever that made, and will make, its latents.
    """

    def __init__(self, store: Store, retriever: Rabtriever) -> None:
        self.store, self.retriever = store, retriever
        self._latents: tuple[int, np.ndarray, np.ndarray] | None = None  # table version, row ids, latents

    @classmethod
    def create(cls, uri: str | Path, retriever: Rabtriever) -> Index:
        """Make an empty index.

        Args:
            uri: Folder or object-store URI.
            retriever: Whose latents it will hold.

        Raises:
            InputError: something stands at ``uri`` already.
        """
        source = None if retriever.source is None else str(Path(retriever.source).resolve())
        model = Model(retriever.fingerprint, retriever.dim - 1, retriever.positive, source)
        return cls(Store.create(str(uri), model), retriever)

    @classmethod
    def build(
        cls, uri: str | Path, retriever: Rabtriever, documents: Iterable[Document], show_progress: bool = False
    ) -> Index:
        """Make an index of these documents, whole or not at all.

        Raises:
            InputError: something stands at ``uri`` already, no documents, or a bad one (see :meth:`add`).
        """
        if "://" not in str(uri):
            with new_folder(uri) as folder:
                cls.create(folder, retriever)._fill(documents, show_progress)
            return cls.open(uri, retriever)
        index = cls.create(uri, retriever)
        try:
            index._fill(documents, show_progress)
        except BaseException:
            index.store.drop()
            raise
        return index

    @classmethod
    def open(cls, uri: str | Path, retriever: Rabtriever | None = None) -> Index:
        """Open an index.

        Args:
            uri: Folder or object-store URI.
            retriever: The one that made it; loaded from where it was then, if None.

        Raises:
            InputError: no index there, its model is not to be found, or ``retriever`` is another model.
        """
        store = Store.open(str(uri))
        if retriever is None:
            if store.model.source is None:
                raise InputError(f"{uri}: does not tell where its model lies; give the retriever (--model)")
            if not Path(store.model.source).is_dir():
                raise InputError(f"{uri}: its model {store.model.source} is gone; give the retriever (--model)")
            retriever = Rabtriever.from_pretrained(store.model.source)
        if retriever.fingerprint != store.model.fingerprint:
            made, given = store.model.fingerprint[:12], retriever.fingerprint[:12]
            raise InputError(f"{uri}: made by model {made}, not by {given}; open it with its own model or index again")
        return cls(store, retriever)

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.store)

    def add(self, documents: Iterable[Document], show_progress: bool = False) -> None:
        """Add documents in one transaction: all of them or, on an error, none.

        Args:
            documents: Read as a stream; memory stays constant but for their ids.
            show_progress: Tell on stderr how far it is.

        Raises:
            InputError: an id that is there already or comes twice, or a document without text.
        """
        self.store.add(self._encoded(documents, show_progress))

    def delete(self, ids: Sequence[str]) -> None:
        """Remove documents.

        Raises:
            InputError: an id that is not there; nothing is removed then.
        """
        if isinstance(ids, str):
            raise InputError(f"delete: expected a list of ids, got {ids!r}; wrap it in a list")
        missing = sorted(set(ids) - self.store.ids())
        if missing:
            raise InputError(f"delete: no document {missing[0]!r} in the index")
        if ids:
            self.store.delete(ids)

    def search(
        self, texts: str | Sequence[str], k: int = 10, where: str | None = None, rerank: int | None = None
    ) -> list[list[Hit]]:
        """The best documents for each query, by the exact folded score.

        Args:
            texts: A query or a list of them.
            k: Hits a query; all if there are fewer documents.
            where: SQL condition over ``id``, ``title``, ``text`` and metadata, such as ``title LIKE 'A%'`` or
                ``json_get_int(metadata, 'year') > 2001`` (also ``json_get_string``, ``json_get_bool``, ...).
            rerank: How many of the best the reranker judges; they come first, with its log-odds.

        Returns:
            For each query its hits, best first; ties in the order of insertion.

        Raises:
            InputError: ``k`` or ``rerank`` below 1, a ``where`` that cannot be read, or a query of zero tokens.
        """
        if k < 1:
            raise InputError(f"k {k}: ask for at least one hit")
        if rerank is not None and rerank < 1:
            raise InputError(f"rerank {rerank}: let the reranker judge at least one document")
        queries = [texts] if isinstance(texts, str) else list(texts)
        rows, latents = self._cached()
        if where is not None:
            kept = np.isin(rows, self.store.matching(where))
            rows, latents = rows[kept], latents[kept]
        vectors = self.retriever.encode_query(queries)
        found = scan(vectors, latents, self.store.model.positive, max(k, rerank or 0))
        return [
            self._hits(query, rows[positions], log_odds, k, rerank)
            for query, (positions, log_odds) in zip(queries, found, strict=True)
        ]

    def _fill(self, documents: Iterable[Document], show_progress: bool) -> None:
        self.add(documents, show_progress)
        if not len(self):
            raise InputError("no documents: an index needs at least one")

    def _hits(self, query: str, rows: np.ndarray, log_odds: np.ndarray, k: int, rerank: int | None) -> list[Hit]:
        documents = self.store.documents(rows)
        pairs = zip(rows.tolist(), log_odds.tolist(), strict=True)
        scored = [(documents[row], score) for row, score in pairs if row in documents]
        judges = [self.retriever.calibration] * len(scored)
        if rerank is not None and scored:
            judged = [document for document, _ in scored[:rerank]]
            theirs = self.retriever.teacher.log_odds([query], [document.content for document in judged])[0]
            scored[:rerank] = sorted(zip(judged, theirs.tolist(), strict=True), key=lambda pair: -pair[1])
            judges[:rerank] = [self.retriever.teacher.calibration] * len(judged)
        return [
            Hit(document.id, float(judge.probability(score)), score, document.content, dict(document.metadata))
            for (document, score), judge in zip(scored[:k], judges, strict=False)
        ]

    def _encoded(self, documents: Iterable[Document], show: bool) -> Iterator[tuple[list[Document], np.ndarray]]:
        seen = self.store.ids()
        stream = iter(documents)
        with Progress("documents indexed" if show else None) as bar:
            while batch := list(islice(stream, BATCH)):
                for document in batch:
                    if not document.id or document.id in seen:
                        raise InputError(f"add: document id {document.id!r} is empty or there already; ids must differ")
                    seen.add(document.id)
                yield batch, self.retriever.encode_document([document.content for document in batch])
                bar.advance(len(batch))

    def _cached(self) -> tuple[np.ndarray, np.ndarray]:
        version = self.store.version
        if self._latents is None or self._latents[0] != version:
            self._latents = (version, *self.store.latents())
        return self._latents[1:]
