"""Documents, queries and judgements: their types, and how they are read from BEIR folders."""

from __future__ import annotations

from rabtriever.data.beir import load_data, read_corpus
from rabtriever.data.mixture import mixture
from rabtriever.data.types import Document, Qrels, RetrievalData, Run

__all__ = ["Document", "Qrels", "RetrievalData", "Run", "load_data", "mixture", "read_corpus"]
