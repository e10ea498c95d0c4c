"""How good, how fast and how faithful: measures, runs, BM25 and the comparison of systems."""

from __future__ import annotations

from rabtriever.bm25 import BM25
from rabtriever.evaluation.evaluate import System, evaluate
from rabtriever.evaluation.measures import MEASURES, measure
from rabtriever.evaluation.runs import read_run, write_run

__all__ = ["BM25", "MEASURES", "System", "evaluate", "measure", "read_run", "write_run"]
