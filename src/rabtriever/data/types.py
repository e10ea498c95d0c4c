"""Documents, data sets, labels and rankings."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rabtriever.errors import InputError

Qrels = dict[str, dict[str, int]]
"""Query id -> document id -> grade; a grade above 0 means relevant."""

Run = dict[str, dict[str, float]]
"""Query id -> document id -> score; higher is better."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document.

    Attributes:
        id: Unique in its corpus.
        text: May be blank if the title is not.
        title: May be blank if the text is not.
        metadata: Values that a search can filter by; models never read them.
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """Text that models and BM25 read: ``title: text``, or the one of the two that is not blank."""
        return ": ".join(part for part in (self.title, self.text) if part.strip())


@dataclass(frozen=True)
class RetrievalData:
    """A corpus, its queries and their labels.

    Attributes:
        name: The folder's name.
        documents: Document id -> document, in corpus order.
        queries: Query id -> text, in file order; queries of all splits, labelled or not.
        qrels: Split -> labels; empty if there are none. They may name documents that the corpus lacks.
        generated: Ids of the queries that an LLM wrote (``"generated": true`` in their metadata). They teach; they are
            never held out to measure or calibrate on.
    """

    name: str
    documents: dict[str, Document]
    queries: dict[str, str]
    qrels: dict[str, Qrels]
    generated: frozenset[str] = frozenset()

    def labelled_queries(self, split: str, limit: int | None = None, seed: int = 0) -> dict[str, str]:
        """Returns the queries with a relevant document in a split: query id -> text, in file order.

        The corpus may lack that document; then no system can find it.

        Args:
            split: Such as ``test``.
            limit: Most queries, drawn at random by ``seed``; a smaller sample is part of a larger one.
            seed: Of that draw.

        Raises:
            InputError: there is no such split, no relevant document in it, or ``limit`` is below 1.
        """
        if split not in self.qrels:
            existing = f"choose from {', '.join(self.qrels)}, or" if self.qrels else "it has no qrels at all;"
            raise InputError(f"{self.name} has no split {split!r}: {existing} add qrels/{split}.tsv", param="split")
        if limit is not None and limit < 1:
            raise InputError(f"a limit of {limit} leaves no query of {self.name}: give at least 1", param="limit")
        labelled = [query for query in self.queries if self.is_labelled(split, query)]
        if not labelled:
            raise InputError(f"split {split!r} of {self.name} has no query with a relevant document: choose another")
        if limit is not None and limit < len(labelled):
            # A prefix of one shuffle, not random.sample: so that samples are nested.
            shuffled = labelled.copy()
            random.Random(seed).shuffle(shuffled)
            sampled = set(shuffled[:limit])
            labelled = [query for query in labelled if query in sampled]
        return {query: self.queries[query] for query in labelled}

    def positives(self, split: str, limit: int | None = None, seed: int = 0) -> dict[str, list[str]]:
        """Returns query id -> its relevant documents in the corpus, of queries that have any.

        Arguments and errors are as in :meth:`labelled_queries`.
        """
        found = {
            query: [document for document in self.qrels[split][query] if self.is_positive(split, query, document)]
            for query in self.labelled_queries(split, limit, seed)
        }
        if not any(found.values()):
            raise InputError(f"split {split!r} of {self.name}: the corpus lacks all relevant documents; add them")
        return {query: documents for query, documents in found.items() if documents}

    def is_labelled(self, split: str, query: str) -> bool:
        """Returns whether a split has a relevant document of a query, in the corpus or not."""
        grades = self.qrels[split].get(query, {})
        return any(grade > 0 and not self.is_own_document(query, document) for document, grade in grades.items())

    def is_positive(self, split: str, query: str, document: str) -> bool:
        """Returns whether a split labels a document of the corpus relevant to a query; a query's own never is."""
        relevant = self.qrels[split].get(query, {}).get(document, 0) > 0 and document in self.documents
        return relevant and not self.is_own_document(query, document)

    def is_own_document(self, query: str, document: str) -> bool:
        """Returns whether a document is the query itself: the same id and the same text.

        Corpora such as ArguAna and Quora hold their queries. A query's own document is neither a hit nor relevant.
        """
        if query != document or document not in self.documents:
            return False
        text, found = self.queries[query].strip(), self.documents[document]
        return text in (found.text.strip(), found.content.strip())
