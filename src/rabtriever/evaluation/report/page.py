"""The report's page: one HTML file that loads nothing, from what ``report.json`` holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from rabtriever.evaluation.measures import MEASURES, RESAMPLES
from rabtriever.evaluation.report.charts import log_odds_chart, quality_chart, reliability_chart
from rabtriever.evaluation.report.markup import element, page, table
from rabtriever.evaluation.report.repeat import repeat

SIGNIFICANT = 0.05
PLOTTED = ("R@1", "nDCG@10")
SHOWN_CHARACTERS = 400  # of a text


def render(report: dict[str, Any]) -> str:
    """Returns the page of a report, the content of ``report.json``."""
    title = f"Evaluation on {report['data']['name']}"
    sections = (_quality, _significance, _student_and_teacher, _reliability, _disagreements, repeat)
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    header = element("header", element("h1", title), element("p", _size(report)), element("p", _headline(report)))
    return page(title, style, header, element("main", [section(report) for section in sections]))


def _size(report: dict[str, Any]) -> str:
    data, own, lacking = report["data"], report["own_documents_left_out"], report["judged_documents_not_in_corpus"]
    parts = [f"{report['n_queries']:,} queries of {data['split']}, {data['documents']:,} documents"]
    parts += [f"{own} queries are documents, left out of their own hits"] if own else []
    parts += [f"{lacking} judged documents are not in the corpus and count as not found"] if lacking else []
    return "; ".join(parts) + "."


def _headline(report: dict[str, Any]) -> str:
    """Returns which system has the highest R@1, and whether that can be told."""
    quality = {name: one["measures"]["R@1"] for name, one in report["systems"].items()}
    best = max(quality, key=lambda name: quality[name]["value"])
    above, alike = [], []
    for pair in report["significance"]["pairs"]:
        if best in (pair["a"], pair["b"]):
            other = pair["b"] if pair["a"] == best else pair["a"]
            (above if pair["measures"]["R@1"]["p_holm"] < SIGNIFICANT else alike).append(other)
    text = f"{best} has the highest R@1, {_with_interval(quality[best])}"
    text += f"; significantly above {_listed(above)}" if above else ""
    return text + (f"; the difference to {_listed(alike)} may be chance." if alike else ".")


def _quality(report: dict[str, Any]) -> Element:
    systems = report["systems"]
    rows = [
        [name, *(_stacked(one["measures"][m], "{:.3f}".format) for m in MEASURES), _stacked(one["ms_per_query"], _ms)]
        for name, one in systems.items()
    ]
    note = (
        f"Below each value: 95% of {RESAMPLES:,} resamplings of the queries (percentile bootstrap). R@k is the share of a "
        f"query's relevant documents among its first k. Milliseconds: {report['timing']}."
    )
    charts = element("div", [element("figure", quality_chart(systems, m)) for m in PLOTTED], class_="charts")
    return _section("Quality and time", table("Measures of each system", ["System", *MEASURES, "ms"], rows), charts, note)


def _significance(report: dict[str, Any]) -> Element | None:
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
    return _section("Which differences are significant", table("Differences of systems", ["Pair", *MEASURES], rows), note)


def _student_and_teacher(report: dict[str, Any]) -> Element | None:
    found = report["student_and_teacher"]
    if not found:
        return None
    fidelity, n = found["fidelity"], report["n_queries"]
    ratios = [[measure, "–" if fidelity[measure] is None else f"{fidelity[measure]:.3f}"] for measure in MEASURES]
    right = [
        ["teacher right", f"{found['both_right']} ({found['both_right'] / n:.0%})", _share(found, "only_teacher", n)],
        ["teacher wrong", _share(found, "only_student", n), f"{found['neither_right']} ({found['neither_right'] / n:.0%})"],
    ]
    pearson = fidelity["pearson"]
    note = (
        f"Student: retriever; teacher: reranker. Both put the same document first for {fidelity['top1_agreement']:.1%} of "
        f"the queries. Pearson correlation of log-odds over {found['n_pairs']:,} pairs that both scored: "
        f"{'undefined' if pearson is None else f'{pearson:.3f}'}; the chart shows {len(found['pairs']):,} of them, drawn at "
        "random, squares where the document is relevant. Right: a relevant document comes first."
    )
    chart = element("figure", log_odds_chart(found["pairs"], pearson)) if found["pairs"] else None
    tables = element(
        "div",
        table("Queries", ["", "student right", "student wrong"], right),
        table("Student's measures over the teacher's", ["Measure", "Ratio"], ratios),
    )
    return _section("Student and teacher", element("div", chart, tables, class_="charts"), note)


def _reliability(report: dict[str, Any]) -> Element | None:
    found = {name: (i, one["reliability"]) for i, (name, one) in enumerate(report["systems"].items()) if one["reliability"]}
    if not found:
        return None
    rows = [
        [name, f"{one['ece']:.3f}", f"{one['mean_probability']:.3f}", f"{one['share_relevant']:.3f}", f"{one['n']:,}"]
        for name, (_, one) in found.items()
    ]
    head = ["System", "ECE", "Mean probability", "Share relevant", "First hits"]
    charts = [
        element("figure", element("figcaption", name), reliability_chart(name, i, one)) for name, (i, one) in found.items()
    ]
    note = (
        "The probability of a query's first hit, and whether that hit is relevant, in ten bins of equal width. ECE, the "
        "expected calibration error, is the mean over first hits of |mean probability − share relevant| of their bin. "
        "On the diagonal a probability is what it says; bars are Wilson's 95% intervals, larger dots hold more queries."
    )
    without = [name for name in report["systems"] if name not in found]
    note += f" No probabilities that tell queries apart: {_listed(without)}." if without else ""
    shown = element("div", charts, class_="charts small")
    return _section("Calibration", table("Calibration of first hits", head, rows), shown, note)


def _disagreements(report: dict[str, Any]) -> Element | None:
    found, names = report["disagreements"], list(report["systems"])
    if len(names) < 2:
        return None
    counts = {(one["right"], one["wrong"]): str(one["n"]) for one in found["counts"]}
    rows = [[f"{right} right", *(counts.get((right, wrong), "–") for wrong in names)] for right in names]
    note = (
        f"Right: a relevant document comes first. Systems disagree on {found['n']:,} of {report['n_queries']:,} queries; "
        f"{len(found['examples'])} of them follow: each kind of disagreement has its turn, the rarest first, and within a kind "
        "the most wrong answers come first. All are in queries.csv."
    )
    matrix = table("Queries that the row answers right and the column wrong", ["", *(f"{n} wrong" for n in names)], rows)
    return _section("Where systems disagree", matrix, note, *map(_example, found["examples"]))


def _example(found: dict[str, Any]) -> Element:
    relevant = [element("li", _document(one["id"], one["text"])) for one in found["relevant"]]
    answers = []
    for name, answer in found["answers"].items():
        is_right, rank = name in found["right"], answer["relevant_rank"]
        facts = [] if answer["probability"] is None else [f"probability {answer['probability']:.2f}"]
        facts += [] if is_right else [f"first relevant document at rank {rank}" if rank else "found no relevant document"]
        first = "nothing" if answer["id"] is None else _document(answer["id"], answer["text"])
        verdict = element("b", f"{'✓' if is_right else '✗'} {name}", class_="right" if is_right else "wrong")
        said = element("span", f"({'right' if is_right else 'wrong'})", class_="unseen")
        answers.append(element("li", verdict, " ", said, first, element("small", "; ".join(facts)) if facts else None))
    title = element("h3", _cut(found["text"]), " ", element("code", found["query"]))
    parts = (element("p", "Relevant", class_="what"), element("ul", relevant), element("p", "Put first", class_="what"))
    return element("article", title, *parts, element("ul", answers))


def _document(document: str, text: str) -> list[Element | str]:
    return [_cut(text), " ", element("code", document)]


def _section(title: str, *content: Element | str | None) -> Element:
    parts = [element("p", part, class_="note") if isinstance(part, str) else part for part in content]
    return element("section", element("h2", title), parts)


def _stacked(found: dict[str, Any], shape: Callable[[float], str]) -> list[Element | str]:
    low, high = map(shape, found["interval"])
    return [shape(found["value"]), element("small", f"{low} to {high}")]


def _ms(value: float) -> str:
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _difference(found: dict[str, Any]) -> list[Element | str]:
    (low, high), p = found["interval"], found["p_holm"]
    shown = "p < 0.001" if p < 0.001 else f"p {p:.3f}"
    star = "*" if p < SIGNIFICANT else ""
    small = element("small", f"{_signed(low)} to {_signed(high)}", element("br"), shown)
    return [element("b" if star else "span", f"{_signed(found['difference'])}{star}"), small]


def _share(found: dict[str, Any], who: str, n: int) -> str:
    return f"{found[f'{who}_right']} ({found[f'{who}_right'] / n:.0%})"


def _with_interval(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['value']:.3f} ({low:.3f} to {high:.3f})"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} …"
