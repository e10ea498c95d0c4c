"""An index: documents and their latents in a Lance table, searched by the retriever that made them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from rabtriever.data import Document
from rabtriever.errors import InputError
from rabtriever.index.batches import batches
from rabtriever.index.codes import PRECISIONS
from rabtriever.index.hits import RRF, Hit, fused, hits_of, reranked
from rabtriever.index.segments import Segments
from rabtriever.index.snapshot import among
from rabtriever.index.store import Model, Store, readable
from rabtriever.index.view import View
from rabtriever.llm.folder import new_folder
from rabtriever.retriever import Rabtriever

MODES = ("auto", "exact", "ann", "bm25")
HYBRIDS = ("union", "rrf")
KEEP = timedelta(days=7)  # how long versions are kept, at least


class Index:
    """Documents at rest. Make one with :meth:`create`, :meth:`build` or :meth:`open`.

    Args:
        store: The table.
        retriever: The retriever that made, and will make, its latents.
        precision: Of what a search reads first: ``int8``, ``float16`` or ``float32``. Hits and log-odds are the same.
        version: A version of the past, to read; the latest if None.
        device: Where torch holds and scans the latents, such as ``cuda``; None: the CPU's kernel does, whatever the
            retriever runs on.

    Attributes:
        wait: Seconds that a change waits for another writer; at first 0.
    """

    def __init__(
        self,
        store: Store,
        retriever: Rabtriever,
        precision: str = "int8",
        version: int | None = None,
        device: str | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise InputError(f"precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
        self.store, self.retriever, self.version = store, retriever, version
        model = store.model
        self._segments = Segments(store.uri, model.fingerprint, model.positive, precision, device)
        self.wait = 0.0
        self._view: View | None = None
        self._lock = Lock()
        if version is not None:
            self._view = View.of(store.snapshot(version), self._segments, tidy=False)

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
            index = cls.open(uri, retriever)
        else:
            index = cls.create(uri, retriever)
            try:
                index._fill(documents, show_progress)
            except BaseException:
                index.store.drop()
                raise
        index.warm()
        return index

    @classmethod
    def open(
        cls,
        uri: str | Path,
        retriever: Rabtriever | None = None,
        precision: str = "int8",
        version: int | None = None,
        device: str | None = None,
    ) -> Index:
        """Open an index.

        Args:
            uri: Folder or object-store URI.
            retriever: The one that made it; loaded from where it was then, if None.
            precision: Of what a search reads first: ``int8``, ``float16`` or ``float32``; hits stay the same.
            version: One of :meth:`versions`, to read; the latest, and what will be, if None.
            device: Where torch holds and scans the latents, such as ``cuda``; None: the CPU's kernel does.

        Raises:
            InputError: no index there or a damaged one, no such version, its model is not to be found, or ``retriever``
                is another model.
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
        return cls(store, retriever, precision, version, device)

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.store) if self.version is None else len(self._opened().snapshot.keys)

    def add(
        self, documents: Iterable[Document], latents: Iterable[np.ndarray] | None = None, show_progress: bool = False
    ) -> None:
        """Add documents in one transaction: all of them or, on an error, none.

        Args:
            documents: Read as a stream; memory stays constant but for their ids.
            latents: Their latents as :meth:`Rabtriever.encode_document` makes them, float32 (m + 1,) each, if they were
                made elsewhere; encoded here if None.
            show_progress: Tell on stderr how far it is.

        Raises:
            InputError: an id that is there already or comes twice, a document without text, latents that are not
                finite or not of this model's width, another writer, or no room.
        """
        with self._writing():
            self.store.add(batches(documents, latents, self.retriever, self.store.known, show_progress), replace=False)

    def upsert(
        self, documents: Iterable[Document], latents: Iterable[np.ndarray] | None = None, show_progress: bool = False
    ) -> None:
        """As :meth:`add`, but documents whose ids are there already take the place of those."""
        with self._writing():
            self.store.add(batches(documents, latents, self.retriever, lambda ids: set(), show_progress), replace=True)

    def delete(self, ids: Sequence[str]) -> None:
        """Remove documents.

        Raises:
            InputError: an id that is not there; nothing is removed then. Or another writer.
        """
        if isinstance(ids, str):
            raise InputError(f"delete: expected a list of ids, got {ids!r}; wrap it in a list")
        with self._writing():
            missing = sorted(set(ids) - self.store.known(ids))
            if missing:
                raise InputError(f"delete: no document {missing[0]!r} in the index")
            if ids:
                self.store.delete(ids)

    def optimize(self, keep: timedelta = KEEP) -> None:
        """Join small files, bring the text index up to date, forget versions older than ``keep``.

        Raises:
            InputError: another writer.
        """
        with self._writing():
            self.store.optimize(keep)
        self.warm()

    def versions(self) -> list[dict[str, Any]]:
        """Every version that can be opened, the oldest first: ``version``, ``time`` (ISO 8601) and ``documents``."""
        return self.store.versions()

    def restore(self, version: int) -> None:
        """Make an older version the latest again; it becomes a new one, so that nothing is lost.

        Raises:
            InputError: no such version, or another writer.
        """
        with self._writing():
            self.store.snapshot(version)
            self.store.restore(version)

    def warm(self) -> None:
        """Make segments and compile the kernel now, so that no search has to wait for it.

        :meth:`build` and :meth:`optimize` do it; a server that opens an index should.

        Raises:
            InputError: a damaged table, or no room for segments.
        """
        self._opened().search(np.zeros((2, self.store.model.width + 1), np.float32), 1, "exact")

    def info(self) -> dict[str, Any]:
        """What there is: documents, model, version, bytes on disk (of the table, of segments) and in memory."""
        view = self._opened()
        segments = [path for path in self._segments.folder.rglob("*") if path.is_file()]
        return {
            "uri": self.store.uri,
            "documents": len(view.snapshot.keys),
            "model": self.store.model.source,
            "fingerprint": self.store.model.fingerprint,
            "width": self.store.model.width,
            "predictor": "quadratic" if self.store.model.positive is None else "mlp",
            "precision": self._segments.precision,
            "version": view.snapshot.version,
            "versions": len(self.versions()),
            "table_bytes": self.store.bytes(),
            "segment_bytes": sum(path.stat().st_size for path in segments),
            "memory_bytes": view.memory(),
            "segments": len(view.parts),
            "clusters": sum(len(part.segment.centres) for part in view.parts),
            "text_index": view.snapshot.has_words(),
        }

    def search(
        self,
        texts: str | Sequence[str],
        k: int = 10,
        where: str | None = None,
        rerank: int | None = None,
        mode: str = "auto",
        hybrid: str | None = None,
    ) -> list[list[Hit]]:
        """The best documents for each query, by the folded score.

        Args:
            texts: A query or a list of them.
            k: Hits a query; all if there are fewer documents.
            where: SQL condition over ``id``, ``title``, ``text`` and metadata, such as ``title LIKE 'A%'`` or
                ``json_get_int(metadata, 'year') > 2001`` (also ``json_get_string``, ``json_get_bool``, ...).
            rerank: How many of the best the reranker judges; they come first, with its log-odds.
            mode: ``exact``: the best of all documents. ``ann``: of a small share of them, the likeliest. ``auto``:
                exact unless that takes more than 20 ms a query, each time it is tried in this process. ``bm25``: BM25's
                ranking, of documents that share a word with the query, with the retriever's log-odds.
            hybrid: ``union``: BM25's best documents are candidates too. ``rrf``: order by reciprocal-rank fusion of
                both rankings. None: the retriever alone.

        Returns:
            For each query its hits, best first; ties in the order of insertion.

        Raises:
            InputError: ``k`` or ``rerank`` below 1, an unknown ``mode`` or ``hybrid``, ``hybrid`` without a text
                index, a ``where`` that cannot be read, or a query of zero tokens.
        """
        if k < 1:
            raise InputError(f"k {k}: ask for at least one hit")
        if rerank is not None and rerank < 1:
            raise InputError(f"rerank {rerank}: let the reranker judge at least one document")
        if mode not in MODES:
            raise InputError(f"mode {mode!r}: choose one of {', '.join(MODES)}")
        if hybrid is not None and hybrid not in HYBRIDS:
            raise InputError(f"hybrid {hybrid!r}: choose one of {', '.join(HYBRIDS)}")
        queries = [texts] if isinstance(texts, str) else list(texts)
        vectors, teacher = self.retriever.encode_query(queries), self.retriever.teacher
        found = self.find(queries, vectors, max(k, rerank or 0), where, mode, hybrid)
        if rerank is not None:
            for i, (query, hits) in enumerate(zip(queries, found, strict=True)):
                if hits:
                    log_odds = teacher.log_odds([query], [hit.text for hit in hits[:rerank]])[0]
                    found[i] = reranked(hits, log_odds, teacher.calibration)
        return [hits[:k] for hits in found]

    def find(
        self,
        texts: Sequence[str],
        vectors: np.ndarray,
        k: int,
        where: str | None = None,
        mode: str = "auto",
        hybrid: str | None = None,
    ) -> list[list[Hit]]:
        """As :meth:`search` without a reranker, for queries that are encoded already.

        Args:
            texts: n queries, for BM25.
            vectors: Theirs, float32 (n, dim) from :meth:`Rabtriever.encode_query`.
            k: Hits a query.
            where: As in :meth:`search`.
            mode: As in :meth:`search`.
            hybrid: As in :meth:`search`.
        """
        view, positive = self._opened(), self.store.model.positive
        snapshot, far = view.snapshot, max(RRF, 4 * k)
        if mode == "bm25":
            found = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(texts)
            hybrid, far = "rrf", k
        else:
            only = None if where is None else snapshot.matching(where)
            found = view.search(vectors, far if hybrid == "rrf" else k, mode, only)
        with readable(self.store.uri):
            if hybrid is not None:
                lexical = [snapshot.lexical(text, far, where) for text in texts]
                found = [
                    fused(ranking, words, hybrid == "rrf", vector, snapshot, positive)
                    for ranking, words, vector in zip(found, lexical, vectors, strict=True)
                ]
            calibration = self.retriever.calibration
            return [hits_of((ordinals[:k], log_odds[:k]), snapshot, calibration) for ordinals, log_odds in found]

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents of these ids that are there, in the order of insertion."""
        snapshot = self._opened().snapshot
        with readable(self.store.uri):
            return snapshot.documents(snapshot.matching(among(ids))) if ids else []

    def _opened(self) -> View:
        """The version to read: the one that was asked for, or the latest."""
        with self._lock:
            version = self.store.version if self.version is None else self.version
            if self._view is None or self._view.snapshot.version != version:
                with readable(self.store.uri):
                    self._view = View.of(self.store.snapshot(), self._segments, self._view)
            return self._view

    def _writing(self) -> AbstractContextManager[Any]:
        if self.version is not None:
            raise InputError(f"version {self.version} was opened to read; open the index without it to change it")
        return self.store.writing(self.wait)

    def _fill(self, documents: Iterable[Document], show_progress: bool) -> None:
        self.add(documents, show_progress=show_progress)
        if not len(self):
            raise InputError("no documents: an index needs at least one")
        self.store.optimize(KEEP)
