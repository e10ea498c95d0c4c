"""An index: documents and their latents in a Lance table, searched with the retriever that made them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import Any, overload

import numpy as np

from rabtriever.data import Document
from rabtriever.errors import InputError, NotFoundError
from rabtriever.index.batches import encode_batches
from rabtriever.index.hits import Hit, make_hits
from rabtriever.index.quantization import PRECISIONS
from rabtriever.index.search import RerankPlan, Retriever, SearchOptions, cut_hits, retrieve
from rabtriever.index.segments import Segments
from rabtriever.index.snapshot import id_filter
from rabtriever.index.table import ModelInfo, Table, table_errors
from rabtriever.index.view import EXACT_UP_TO, View
from rabtriever.persistence.folder import atomic_folder
from rabtriever.rerankers.base import Reranker

VERSION_RETENTION = timedelta(days=7)


class Index:
    """Stored documents. Make one with :meth:`create`, :meth:`build` or :meth:`open`.

    Args:
        table: The table.
        retriever: The retriever that made, and will make, its latents; loaded when first needed if None.
        precision: Of what a search scans first: ``int8``, ``float16`` or ``float32``. Hits and log-odds are the same.
        version: A past version, to read; the latest if None.
        device: Where torch holds and scans the latents, such as ``cuda``; None: the CPU's kernel scans.
        exact_up_to: Documents up to which ``mode="auto"`` searches exactly.

    Attributes:
        write_timeout: Seconds that a change waits for another writer; 0 at first.
    """

    def __init__(
        self,
        table: Table,
        retriever: Retriever | None = None,
        *,
        precision: str = "int8",
        version: int | None = None,
        device: str | None = None,
        exact_up_to: int = EXACT_UP_TO,
    ) -> None:
        if precision not in PRECISIONS:
            raise InputError(f"precision {precision!r}: choose one of {', '.join(PRECISIONS)}", param="precision")
        self.table, self.version, self.exact_up_to = table, version, exact_up_to
        self._retriever = None if retriever is None else _checked_retriever(table, retriever)
        self._segments = Segments(table.uri, table.model.fingerprint, table.model.layout, precision, device)
        self.write_timeout = 0.0
        self._view: View | None = None
        self._lock = Lock()
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if version is not None:
            self._view = View.of(table.snapshot(version), self._segments, tidy=False, exact_up_to=exact_up_to)

    @classmethod
    def create(cls, uri: str | Path | None, retriever: Retriever) -> Index:
        """Makes an empty index.

        Args:
            uri: Folder or object-store URI; None: a temporary folder that is removed with the index.
            retriever: Whose latents it will hold.

        Raises:
            ConflictError: something exists at ``uri``.
        """
        temporary = tempfile.TemporaryDirectory(prefix="rabtriever-") if uri is None else None
        source = None if retriever.name_or_path is None else str(Path(retriever.name_or_path).resolve())
        model = ModelInfo(retriever.fingerprint, retriever.layout, source)
        index = cls(Table.create(str(uri or temporary.name), model), retriever)  # type: ignore[union-attr]
        index._temporary = temporary
        return index

    @classmethod
    def build(
        cls,
        uri: str | Path | None,
        retriever: Retriever,
        documents: Iterable[Document],
        show_progress_bar: bool = False,
    ) -> Index:
        """Makes an index of these documents, completely or not at all.

        Raises:
            ConflictError: something exists at ``uri``.
            InputError: no documents, or a bad one (see :meth:`add`).
        """
        if uri is None or "://" in str(uri):
            index = cls.create(uri, retriever)
            try:
                index._fill(documents, show_progress_bar)
            except BaseException:
                index.table.drop()
                raise
        else:
            with atomic_folder(uri) as folder:
                cls.create(folder, retriever)._fill(documents, show_progress_bar)
            index = cls.open(uri, retriever)
        index.warm()
        return index

    @classmethod
    def open(
        cls,
        uri: str | Path,
        retriever: Retriever | None = None,
        *,
        precision: str = "int8",
        version: int | None = None,
        device: str | None = None,
        exact_up_to: int = EXACT_UP_TO,
    ) -> Index:
        """Opens an index.

        Args:
            uri: Folder or object-store URI.
            retriever: The one that made it; if None, it is loaded from where it was then, when it is first needed.
            precision: Of what a search scans first: ``int8``, ``float16`` or ``float32``; hits stay the same.
            version: One of :meth:`versions`, to read; the latest, and later ones, if None.
            device: Where torch holds and scans the latents, such as ``cuda``; None: the CPU's kernel scans.
            exact_up_to: Documents up to which ``mode="auto"`` searches exactly.

        Raises:
            NotFoundError: no index there, or no such version.
            CorruptIndexError: a damaged one.
            InputError: ``retriever`` is another model.
        """
        table = Table.open(str(uri))
        options = {"precision": precision, "version": version, "device": device, "exact_up_to": exact_up_to}
        return cls(table, retriever, **options)  # type: ignore[arg-type]

    @property
    def retriever(self) -> Any:  # noqa: ANN401
        """The retriever that made the index, a :class:`rabtriever.Rabtriever` if it was loaded here.

        Raises:
            InputError: its folder is gone, or holds another model now.
        """
        with self._lock:
            if self._retriever is None:
                from rabtriever.retriever import Rabtriever  # torch and transformers are needed only here

                loaded = Rabtriever.from_pretrained(self.table.model_folder())
                self._retriever = _checked_retriever(self.table, loaded)
            return self._retriever

    def __len__(self) -> int:
        """Returns the number of documents."""
        return len(self.table) if self.version is None else len(self._current_view().snapshot.keys)

    def add(
        self,
        documents: Iterable[Document],
        latents: Iterable[np.ndarray] | None = None,
        show_progress_bar: bool = False,
    ) -> None:
        """Adds documents in one transaction: all of them or, on an error, none.

        Args:
            documents: Read as a stream; memory stays constant but for their ids.
            latents: Their latents as :meth:`Rabtriever.encode_document` makes them, float32 (width + 1,) each, if they
                were made elsewhere; encoded here if None.
            show_progress_bar: Whether to show progress on stderr.

        Raises:
            ConflictError: an id that exists already or comes twice.
            InputError: a document without text, or latents that are not finite or not of this model's width.
            BusyError: another writer.
            StorageError: no space.
        """
        with self._writing():
            batches = encode_batches(documents, latents, self.retriever, self.table.existing_ids, show_progress_bar)
            self.table.add(batches, replace=False)

    def upsert(
        self,
        documents: Iterable[Document],
        latents: Iterable[np.ndarray] | None = None,
        show_progress_bar: bool = False,
    ) -> None:
        """Adds documents as :meth:`add` does, replacing those whose ids exist."""
        with self._writing():
            batches = encode_batches(documents, latents, self.retriever, lambda ids: set(), show_progress_bar)
            self.table.add(batches, replace=True)

    def delete(self, ids: Sequence[str]) -> None:
        """Removes documents.

        Raises:
            NotFoundError: an id that does not exist; nothing is removed then.
            BusyError: another writer.
        """
        if isinstance(ids, str):
            raise InputError(f"delete: expected a list of ids, got {ids!r}; wrap it in a list")
        with self._writing():
            missing = sorted(set(ids) - self.table.existing_ids(ids))
            if missing:
                raise NotFoundError(f"delete: no document {missing[0]!r} in the index", param="id")
            if ids:
                self.table.delete(ids)

    def optimize(self, retention: timedelta = VERSION_RETENTION) -> None:
        """Merges small files, updates the text index and removes versions older than ``retention``.

        Raises:
            BusyError: another writer.
        """
        with self._writing():
            self.table.optimize(retention)
        self.warm()

    def versions(self) -> list[dict[str, Any]]:
        """Returns every version that can be opened, oldest first: ``version``, ``time`` (ISO 8601), ``documents``."""
        return self.table.versions()

    def restore(self, version: int) -> None:
        """Makes a past version the latest again, as a new one, so that nothing is lost.

        Raises:
            NotFoundError: no such version.
            BusyError: another writer.
        """
        with self._writing():
            self.table.snapshot(version)
            self.table.restore(version)

    def warm(self) -> None:
        """Prepares segments and compiles the kernel, so that no search has to wait for it.

        :meth:`build` and :meth:`optimize` do it; a server that opens an index should.
        """
        self._current_view().search(np.zeros((2, self.table.model.layout.width + 1), np.float32), 1, "exact")

    def info(self) -> dict[str, Any]:
        """Returns what the index holds: documents, model, version, bytes on disk and in memory."""
        return {**self.table.info(), **self._segments.info(), **self._current_view().info()}

    @overload
    def search(self, queries: str, k: int = ..., **options: Any) -> list[Hit]: ...  # noqa: ANN401
    @overload
    def search(self, queries: Sequence[str], k: int = ..., **options: Any) -> list[list[Hit]]: ...  # noqa: ANN401
    def search(
        self, queries: str | Iterable[str], k: int = 10, *, reranker: Reranker | None = None, **options: Any
    ) -> list[Hit] | list[list[Hit]]:
        """Finds the best documents for a query, or for each of several.

        Args:
            queries: A query, or several.
            k: Hits a query, at most.
            reranker: Scores the best hits if ``rerank`` is given; the retriever's own if None.
            **options: ``where``, ``mode``, ``hybrid``, ``rerank`` and ``threshold`` (:class:`SearchOptions`).

        Returns:
            A query's hits, best first, ties in the order of insertion; a list of that for several queries.

        Raises:
            InputError: an option that is wrong (:class:`SearchOptions`), a condition that cannot be read, or a query
                of zero tokens.
        """
        texts = [queries] if isinstance(queries, str) else list(queries)
        asked = SearchOptions(k, **options)
        hits = self.retrieve(texts, self.retriever.encode_query(texts), asked)
        if asked.rerank is not None:
            reranker = reranker or self.retriever.reranker
            if reranker is None:
                raise InputError("rerank: the retriever has no reranker; give one", param="rerank")
            plan = RerankPlan(texts, hits, asked.rerank)
            log_odds = reranker.score(plan.queries, plan.documents, plan.pairs).log_odds
            hits = plan.apply(log_odds, reranker.calibration, self.retriever.calibration)
        hits = cut_hits(hits, asked)
        return hits[0] if isinstance(queries, str) else hits

    def retrieve(self, texts: Sequence[str], vectors: np.ndarray, options: SearchOptions) -> list[list[Hit]]:
        """Finds hits for queries that are encoded already, without a reranker.

        Args:
            texts: n queries, for BM25.
            vectors: Theirs, float32 (n, dim) from :meth:`Rabtriever.encode_query`.
            options: How to search.

        Returns:
            ``options.depth`` hits a query, at most.
        """
        view = self._current_view()
        with table_errors(self.table.uri):
            rankings = retrieve(view, texts, vectors, options)
            return [make_hits(ranking, view.snapshot, self.retriever.calibration) for ranking in rankings]

    def get(self, ids: Sequence[str]) -> list[Document]:
        """Returns the documents of these ids that exist, in the order of insertion."""
        snapshot = self._current_view().snapshot
        with table_errors(self.table.uri):
            return snapshot.documents(snapshot.filter(id_filter(ids))) if ids else []

    def _current_view(self) -> View:
        """Returns the version to read: the one that was asked for, or the latest."""
        with self._lock:
            version = self.table.version if self.version is None else self.version
            if self._view is None or self._view.snapshot.version != version:
                with table_errors(self.table.uri):
                    snapshot = self.table.snapshot()
                    self._view = View.of(snapshot, self._segments, self._view, exact_up_to=self.exact_up_to)
            return self._view

    def _writing(self) -> AbstractContextManager[Any]:
        if self.version is not None:
            raise InputError(f"version {self.version} was opened to read; open the index without it to change it")
        return self.table.writing(self.write_timeout)

    def _fill(self, documents: Iterable[Document], show_progress_bar: bool) -> None:
        self.add(documents, show_progress_bar=show_progress_bar)
        if not len(self):
            raise InputError("no documents: an index needs at least one")
        self.table.optimize(VERSION_RETENTION)


def _checked_retriever(table: Table, retriever: Retriever) -> Retriever:
    made, given = table.model.fingerprint, retriever.fingerprint
    if made != given:
        raise InputError(
            f"{table.uri}: made by model {made[:12]}, not by {given[:12]}; open it with its own model or index again"
        )
    return retriever
