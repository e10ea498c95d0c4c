"""How good, how fast and how faithful: measures, runs, a BM25 baseline and the comparison of systems."""

from __future__ import annotations

from rabtriever.evaluation.evaluate import System, evaluate
from rabtriever.evaluation.measures import MEASURES, measure, measure_queries
from rabtriever.evaluation.runs import read_run

__all__ = ["MEASURES", "System", "evaluate", "measure", "measure_queries", "read_run"]
