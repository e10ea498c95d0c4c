"""The report's page: one HTML file that loads nothing, from what ``report.json`` holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rabtriever.evaluation.report.examples import disagreements
from rabtriever.evaluation.report.figures import calibration, quality, significance, student_and_teacher
from rabtriever.evaluation.report.markup import element, listed, page
from rabtriever.evaluation.report.repeat import repeat
from rabtriever.evaluation.significance import SIGNIFICANT

SECTIONS = (quality, significance, student_and_teacher, calibration, disagreements, repeat)


def render(report: dict[str, Any]) -> str:
    """Returns the page of a report, the content of ``report.json``."""
    title = f"Evaluation on {report['data']['name']}"
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    header = element("header", element("h1", title), element("p", _size(report)), element("p", _headline(report)))
    return page(title, style, header, element("main", [section(report) for section in SECTIONS]))


def _size(report: dict[str, Any]) -> str:
    data, own, lacking = report["data"], report["own_documents_left_out"], report["judged_documents_not_in_corpus"]
    parts = [f"{report['n_queries']:,} queries of {data['split']}, {data['documents']:,} documents"]
    parts += [f"{own} queries are documents, left out of their own hits"] if own else []
    parts += [f"{lacking} judged documents are not in the corpus and count as not found"] if lacking else []
    return "; ".join(parts) + "."


def _headline(report: dict[str, Any]) -> str:
    """Returns which system has the highest R@1, and whether that can be told."""
    values = {name: one["measures"]["R@1"] for name, one in report["systems"].items()}
    best = max(values, key=lambda name: values[name]["value"])
    p_of = {
        pair["b"] if pair["a"] == best else pair["a"]: pair["measures"]["R@1"]["p_holm"]
        for pair in report["significance"]["pairs"]
        if best in (pair["a"], pair["b"])
    }
    above = [name for name, p in p_of.items() if p < SIGNIFICANT]
    alike = [name for name in p_of if name not in above]
    low, high = values[best]["interval"]
    text = f"{best} has the highest R@1, {values[best]['value']:.3f} ({low:.3f} to {high:.3f})"
    text += f"; significantly above {listed(above)}" if above else ""
    return text + (f"; the difference to {listed(alike)} may be chance." if alike else ".")
