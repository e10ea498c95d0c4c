"""Documents, queries, labels and feedback: types, BEIR folders, splits and unions of data sets."""

from __future__ import annotations

from rabtriever.data.beir import add_requests, load_corpus, load_data, load_requests, read_corpus
from rabtriever.data.context import with_context
from rabtriever.data.feedback import FeedbackEvent, read_feedback
from rabtriever.data.mixture import concatenate
from rabtriever.data.splits import dev_queries, held_out_queries, train_dev_split, training_queries
from rabtriever.data.types import Document, Qrels, RetrievalData, Run

__all__ = [
    "Document",
    "FeedbackEvent",
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
    "read_feedback",
    "train_dev_split",
    "training_queries",
    "with_context",
]
