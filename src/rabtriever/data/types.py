"""Documents, data sets, judgements and rankings."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rabtriever.errors import InputError

Qrels = dict[str, dict[str, int]]
"""Query id -> document id -> grade; a grade above 0 is a positive judgement."""

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
    """A corpus, its queries and their judgements.

    Attributes:
        name: The folder's name.
        documents: Document id -> document, in corpus order.
        queries: Query id -> text, in file order; queries of all splits, labelled or not.
        qrels: Split -> judgements; empty if there are none.
    """

    name: str
    documents: dict[str, Document]
    queries: dict[str, str]
    qrels: dict[str, Qrels]

    def labelled_queries(self, split: str, limit: int | None = None, seed: int = 0) -> dict[str, str]:
        """Returns the queries with a positive judgement in a split.

        Args:
            split: Name of the judgements, such as ``test``.
            limit: Most queries, drawn at random; with one seed, a smaller sample is part of a larger one.
            seed: Seed of that draw.

        Returns:
            Query id -> text, in file order.

        Raises:
            InputError: there is no such split, no positive judgement in it, or ``limit`` is below 1.
        """
        if split not in self.qrels:
            found = f"it has {', '.join(self.qrels)}" if self.qrels else "it has no judgements at all"
            raise InputError(f"{self.name} has no split {split!r}: {found}", param="split")
        if limit is not None and limit < 1:
            raise InputError(f"a limit of {limit} leaves no query of {self.name}: give at least 1", param="limit")
        labelled = [query for query in self.queries if self.is_labelled(split, query)]
        if not labelled:
            raise InputError(f"split {split!r} of {self.name} has no query with a positive judgement: choose another")
        if limit is not None and limit < len(labelled):
            # A prefix of one shuffle, not random.sample: so that samples are nested.
            shuffled = labelled.copy()
            random.Random(seed).shuffle(shuffled)
            sampled = set(shuffled[:limit])
            labelled = [query for query in labelled if query in sampled]
        return {query: self.queries[query] for query in labelled}

    def positives(self, split: str, limit: int | None = None, seed: int = 0) -> dict[str, list[str]]:
        """Returns query id -> its relevant documents; arguments and errors as in :meth:`labelled_queries`."""
        return {
            query: [document for document in self.qrels[split][query] if self.is_positive(split, query, document)]
            for query in self.labelled_queries(split, limit, seed)
        }

    def is_labelled(self, split: str, query: str) -> bool:
        """Returns whether a split holds a positive judgement of a query."""
        return any(self.is_positive(split, query, document) for document in self.qrels[split].get(query, {}))

    def is_positive(self, split: str, query: str, document: str) -> bool:
        """Returns whether a split judges a document relevant to a query, its own document left out."""
        return self.qrels[split].get(query, {}).get(document, 0) > 0 and not self.is_own_document(query, document)

    def is_own_document(self, query: str, document: str) -> bool:
        """Returns whether a document is the query itself: the same id and the same text.

        Corpora such as ArguAna and Quora hold their queries. A query's own document is neither a hit nor relevant.
        """
        if query != document or document not in self.documents:
            return False
        text, found = self.queries[query].strip(), self.documents[document]
        return text in (found.text.strip(), found.content.strip())
