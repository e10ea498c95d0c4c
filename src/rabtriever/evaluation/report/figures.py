"""The page's sections on figures: tables that say what the charts show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.etree.ElementTree import Element

from rabtriever.evaluation.measures import MEASURES, RESAMPLES
from rabtriever.evaluation.report.charts import log_odds_chart, quality_chart, reliability_chart
from rabtriever.evaluation.report.markup import element, listed, section, table
from rabtriever.evaluation.significance import SIGNIFICANT

PLOTTED = ("R@1", "nDCG@10")


def quality(report: dict[str, Any]) -> Element:
    """Returns the section on measures and milliseconds."""
    systems = report["systems"]
    rows = [
        [name, *(_stacked(one["measures"][m], "{:.3f}".format) for m in MEASURES), _stacked(one["ms_per_query"], _ms)]
        for name, one in systems.items()
    ]
    note = (
        f"Below each value: 95% of {RESAMPLES:,} resamplings of the queries (percentile bootstrap). R@k is the share "
        f"of a query's relevant documents among its first k. Milliseconds: {report['timing']}."
    )
    values = table("Measures of each system", ["System", *MEASURES, "ms"], rows)
    charts = element("div", [element("figure", quality_chart(systems, m)) for m in PLOTTED], class_="charts")
    return section("Quality and time", values, charts, note)


def significance(report: dict[str, Any]) -> Element | None:
    """Returns the section on differences; None of a single system."""
    found = report["significance"]
    if not found["pairs"]:
        return None
    rows = [
        [f"{pair['a']} − {pair['b']}", *(_difference(pair["measures"][measure]) for measure in MEASURES)]
        for pair in found["pairs"]
    ]
    note = (
        f"Mean difference per query, its 95% bootstrap interval, and p of the two-sided paired randomisation test "
        f"({found['permutations']:,} random sign patterns, seed {found['seed']}), corrected by Holm's method for the "
        f"{len(rows)} pairs of each measure. *: p < {SIGNIFICANT}."
    )
    return section("Which differences are significant", table("Differences", ["Pair", *MEASURES], rows), note)


def student_and_teacher(report: dict[str, Any]) -> Element | None:
    """Returns the section on the retriever beside its reranker; None without both."""
    found, n = report["student_and_teacher"], report["n_queries"]
    if not found:
        return None
    fidelity, pearson = found["fidelity"], found["fidelity"]["pearson"]
    ratios = [[measure, "–" if fidelity[measure] is None else f"{fidelity[measure]:.3f}"] for measure in MEASURES]
    right = [
        [f"teacher {verdict}", *(f"{found[key]} ({found[key] / n:.0%})" for key in keys)]
        for verdict, keys in (
            ("right", ("both_right", "only_teacher_right")),
            ("wrong", ("only_student_right", "neither_right")),
        )
    ]
    shown = "undefined" if pearson is None else f"{pearson:.3f}"
    note = (
        f"Student: retriever; teacher: reranker. Both put the same document first for {fidelity['top1_agreement']:.1%} "
        f"of the queries. Pearson correlation of log-odds over {found['n_pairs']:,} pairs that both scored: {shown}; "
        f"the chart shows {sum(pair['relevant'] for pair in found['pairs']):,} of the relevant ones (squares) and "
        f"{sum(not pair['relevant'] for pair in found['pairs']):,} of the others, drawn at random. Right: a relevant "
        "document comes first."
    )
    chart = element("figure", log_odds_chart(found["pairs"], pearson)) if found["pairs"] else None
    tables = [
        table("Queries", ["", "student right", "student wrong"], right),
        table("Student's measures over the teacher's", ["Measure", "Ratio"], ratios),
    ]
    return section("Student and teacher", element("div", chart, element("div", tables), class_="charts"), note)


def calibration(report: dict[str, Any]) -> Element | None:
    """Returns the section on probabilities; None if no system has any."""
    numbered = enumerate(report["systems"].items())
    found = {name: (number, one["reliability"]) for number, (name, one) in numbered if one["reliability"]}
    if not found:
        return None
    rows = [
        [name, f"{one['ece']:.3f}", f"{one['mean_probability']:.3f}", f"{one['share_relevant']:.3f}", f"{one['n']:,}"]
        for name, (_, one) in found.items()
    ]
    head = ["System", "ECE", "Mean probability", "Share relevant", "First hits"]
    charts = [
        element("figure", element("figcaption", name), reliability_chart(name, number, one))
        for name, (number, one) in found.items()
    ]
    note = (
        "The probability of a query's first hit, and whether that hit is relevant, in ten bins of equal width. ECE, "
        "the expected calibration error, is the mean over first hits of |mean probability − share relevant| of their "
        "bin. On the diagonal a probability is what it says; bars are Wilson's 95% intervals, larger dots hold more "
        "queries."
    )
    if without := [name for name in report["systems"] if name not in found]:
        note += f" Without probabilities that tell queries apart: {listed(without)}."
    shown = element("div", charts, class_="charts small")
    return section("Calibration", table("Calibration of first hits", head, rows), shown, note)


def _stacked(found: dict[str, Any], shape: Callable[[float], str]) -> list[Element | str]:
    low, high = map(shape, found["interval"])
    return [shape(found["value"]), element("small", f"{low} to {high}")]


def _difference(found: dict[str, Any]) -> list[Element | str]:
    (low, high), p = found["interval"], found["p_holm"]
    star = "*" if p < SIGNIFICANT else ""
    shown = "p < 0.001" if p < 0.001 else f"p {p:.3f}"
    small = element("small", f"{_signed(low)} to {_signed(high)}", element("br"), shown)
    return [element("b" if star else "span", f"{_signed(found['difference'])}{star}"), small]


def _ms(value: float) -> str:
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
