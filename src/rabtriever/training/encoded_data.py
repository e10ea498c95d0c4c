"""A data set as trainings need it: texts, their embeddings, and positions instead of ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rabtriever.data import RetrievalData, dev_queries, held_out_queries, train_dev_split, training_queries
from rabtriever.encoders.base import Encoder
from rabtriever.training.teacher_cache import TeacherCache


@dataclass(frozen=True)
class EncodedQueries:
    """Queries of a split.

    Attributes:
        texts: The queries.
        states: float32 (n, H), their embeddings.
        positives: Positions of each query's relevant documents; empty for an unlabelled query.
        own_documents: int64 (n,), position of the document that is the query itself; -1 if there is none.
    """

    texts: list[str]
    states: Tensor
    positives: list[list[int]]
    own_documents: Tensor

    def __len__(self) -> int:
        """Returns the number of queries."""
        return len(self.texts)

    def select(self, rows: Tensor) -> EncodedQueries:
        """Returns the queries at some positions."""
        positions = rows.tolist()
        texts, positives = [self.texts[row] for row in positions], [self.positives[row] for row in positions]
        return EncodedQueries(texts, self.states[rows], positives, self.own_documents[rows])

    @property
    def labelled(self) -> Tensor:
        """Positions int64 (m,) of the labelled queries."""
        return torch.tensor([query for query, relevant in enumerate(self.positives) if relevant], dtype=torch.long)

    @property
    def unlabelled(self) -> Tensor:
        """Positions int64 (m,) of the others."""
        return torch.tensor([query for query, relevant in enumerate(self.positives) if not relevant], dtype=torch.long)

    @property
    def own_pairs(self) -> Tensor:
        """Pairs int64 (m, 2) of a query and the document that is the query itself: never scored."""
        queries = (self.own_documents >= 0).nonzero().flatten()
        return torch.stack([queries, self.own_documents[queries]], dim=1)


@dataclass(frozen=True)
class EncodedData:
    """Documents, and the queries to train on and to measure on.

    Attributes:
        documents: Texts.
        z_d: float32 (k, H), their embeddings.
        train: Labelled and unlabelled queries.
        dev: Queries that are never trained on: labelled ones, or else a few without labels, for the teacher to label.
        has_labels: Whether people labelled ``dev``.
    """

    documents: list[str]
    z_d: Tensor
    train: EncodedQueries
    dev: EncodedQueries
    has_labels: bool

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of train queries, documents and dev queries."""
        return len(self.train), len(self.documents), len(self.dev)


def encode_data(data: RetrievalData, encoder: Encoder, max_labelled_queries: int | None, seed: int) -> EncodedData:
    """Splits a data set and encodes it; states come from the cache where they can.

    Where no dev query is labelled, a tenth of the train queries, 300 at most, is held out, if the
    encoder has a similarity, so that an untrained retriever can compete. No query that an LLM wrote is.

    Raises:
        InputError: no query to train on.
    """
    data, cache = train_dev_split(data), TeacherCache(encoder)
    documents, ids = [document.content for document in data.documents.values()], list(data.documents)

    def encode(queries: Mapping[str, Sequence[str]]) -> EncodedQueries:
        states = cache.states("query", [data.queries[query] for query in queries])
        return index_queries(data, queries, states, ids)

    train, dev = training_queries(data, max_labelled_queries, seed), dev_queries(data)
    if not dev and encoder.has_similarity:
        held_out = held_out_queries(data, train)
        dev = {query: [] for query in train if query in held_out}  # in file order: a set's differs from run to run
        train = {query: relevant for query, relevant in train.items() if query not in held_out}
    z_d = cache.states("document", documents)
    return EncodedData(documents, z_d, encode(train), encode(dev), any(map(len, dev.values())))


def index_queries(
    data: RetrievalData, queries: Mapping[str, Sequence[str]], states: Tensor, ids: Sequence[str]
) -> EncodedQueries:
    """Returns queries, from id -> ids of relevant documents and their states, with positions in ``ids`` for ids."""
    position = {document: i for i, document in enumerate(ids)}
    own = [position.get(query, -1) if data.is_own_document(query, query) else -1 for query in queries]
    positives = [[position[document] for document in relevant] for relevant in queries.values()]
    return EncodedQueries([data.queries[query] for query in queries], states, positives, torch.tensor(own).long())
