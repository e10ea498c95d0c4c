"""A report that a reviewer can check: one page, figures, each query's result, runs."""

from __future__ import annotations

from rabtriever.evaluation.report.write import make_report, write_report

__all__ = ["make_report", "write_report"]
