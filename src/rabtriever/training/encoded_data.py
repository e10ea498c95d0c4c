"""A data set as a distillation needs it: texts, their embeddings, and positions instead of ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rabtriever.data import RetrievalData, dev_queries, train_dev_split, training_queries
from rabtriever.encoders.llm import LLMEncoder
from rabtriever.training.config import DistillConfig
from rabtriever.training.teacher_cache import TeacherCache


@dataclass(frozen=True)
class EncodedQueries:
    """Queries of a split.

    Attributes:
        texts: The queries.
        states: float32 (n, H), their embeddings.
        positives: Positions of each query's relevant documents; empty for an unlabelled query.
        own_documents: Position of the document that is the query itself; -1 if there is none.
    """

    texts: list[str]
    states: Tensor
    positives: list[list[int]]
    own_documents: list[int]

    def __len__(self) -> int:
        """Returns the number of queries."""
        return len(self.texts)

    @property
    def labelled(self) -> Tensor:
        """Positions int64 (m,) of the labelled queries."""
        return torch.tensor([query for query, relevant in enumerate(self.positives) if relevant], dtype=torch.long)

    @property
    def own_pairs(self) -> Tensor:
        """Pairs int64 (m, 2) of a query and the document that is the query itself: never scored."""
        pairs = [(query, document) for query, document in enumerate(self.own_documents) if document >= 0]
        return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)


@dataclass(frozen=True)
class EncodedData:
    """Documents, and the queries to train on and to measure on.

    Attributes:
        documents: Texts.
        z_d: float32 (k, H), their embeddings.
        train: Labelled and unlabelled queries.
        dev: Labelled queries that are never trained on; there may be none.
    """

    documents: list[str]
    z_d: Tensor
    train: EncodedQueries
    dev: EncodedQueries


def encode_data(data: RetrievalData, encoder: LLMEncoder, cache: TeacherCache, config: DistillConfig) -> EncodedData:
    """Splits a data set and encodes its documents and queries, on the device of the teacher.

    Raises:
        InputError: no query to train on.
    """
    data = train_dev_split(data)
    documents = [document.content for document in data.documents.values()]
    device = cache.teacher.llm.backbone.device
    position = {document: i for i, document in enumerate(data.documents)}

    def encode(queries: Mapping[str, Sequence[str]]) -> EncodedQueries:
        texts = [data.queries[query] for query in queries]
        own = [position[query] if data.is_own_document(query, query) else -1 for query in queries]
        positives = [[position[document] for document in relevant] for relevant in queries.values()]
        return EncodedQueries(texts, cache.states(encoder, "query", texts).to(device), positives, own)

    return EncodedData(
        documents,
        cache.states(encoder, "document", documents).to(device),
        encode(training_queries(data, config.max_labelled_queries or None, config.seed)),
        encode(dev_queries(data)),
    )
