"""Documents, queries and labels: types, BEIR folders, splits and unions of data sets."""

from __future__ import annotations

from rabtriever.data.beir import add_requests, load_corpus, load_data, load_requests, read_corpus
from rabtriever.data.context import with_context
from rabtriever.data.mixture import concatenate
from rabtriever.data.splits import dev_queries, held_out_queries, train_dev_split, training_queries
from rabtriever.data.types import Document, Qrels, RetrievalData, Run

__all__ = [
    "Document",
    "Qrels",
    "RetrievalData",
    "Run",
    "add_requests",
    "concatenate",
    "dev_queries",
    "held_out_queries",
    "load_corpus",
    "load_data",
    "load_requests",
    "read_corpus",
    "train_dev_split",
    "training_queries",
    "with_context",
]
