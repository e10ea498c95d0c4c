"""An evaluation report as a table."""

from __future__ import annotations

from typing import Any


def print_report(report: dict[str, Any]) -> None:
    """Print what ``evaluate`` returns."""
    measures = list(next(iter(report["systems"].values())))
    print(f"{report['n_queries']} queries")
    print(f"{'':10s}" + "".join(f"{name:>14s}" for name in measures))
    for system, values in report["systems"].items():
        cells = (f"{values[name]:14.1f}" if name == "ms_per_query" else f"{values[name]:14.3f}" for name in measures)
        print(f"{system:10s}" + "".join(cells))
    if report.get("fidelity"):
        shares = (f"{name} {'-' if value is None else f'{value:.3f}'}" for name, value in report["fidelity"].items())
        print("fidelity (retriever / reranker): " + ", ".join(shares))
