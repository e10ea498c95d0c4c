"""The page's section on disagreements: how many, and texts to read."""

from __future__ import annotations

from collections import defaultdict
from typing import Any
from xml.etree.ElementTree import Element

from rabtriever.evaluation.report.markup import element, listed, section, table

SHOWN_CHARACTERS = 400  # of a text
SHOWN_DOCUMENTS = 5  # relevant ones of a query


def disagreements(report: dict[str, Any]) -> Element | None:
    """Returns the section; None of a single system."""
    found, names = report["disagreements"], list(report["systems"])
    if len(names) < 2:
        return None
    counts = {(one["right"], one["wrong"]): str(one["n"]) for one in found["counts"]}
    rows = [[f"{right} right", *(counts.get((right, wrong), "–") for wrong in names)] for right in names]
    note = (
        f"Right: a relevant document comes first. Systems disagree on {found['n']:,} of {report['n_queries']:,} "
        f"queries; {len(found['examples'])} of them follow: each kind of disagreement has its turn, the rarest first, "
        "and within a kind the most wrong answers come first. All are in queries.csv."
    )
    head = ["", *(f"{name} wrong" for name in names)]
    matrix = table("Queries that the row answers right and the column wrong", head, rows)
    return section("Where systems disagree", matrix, note, *map(_example, found["examples"]))


def _example(found: dict[str, Any]) -> Element:
    relevant = [element("li", _document(one["id"], one["text"])) for one in found["relevant"][:SHOWN_DOCUMENTS]]
    if (more := len(found["relevant"]) - len(relevant)) > 0:
        relevant.append(element("li", f"and {more} more"))
    same: dict[str | None, list[str]] = defaultdict(list)  # systems with the same first document
    for name, answer in found["answers"].items():
        same[answer["id"]].append(name)
    return element(
        "article",
        element("h3", _cut(found["text"]), " ", element("code", found["query"])),
        element("p", "Relevant", class_="what"),
        element("ul", relevant),
        element("p", "Put first", class_="what"),
        element("ul", [_answer(found, names) for names in same.values()]),
    )


def _answer(found: dict[str, Any], names: list[str]) -> Element:
    """Returns what some systems put first, all the same document."""
    is_right, first = names[0] in found["right"], found["answers"][names[0]]
    verdict = element("b", f"{'✓' if is_right else '✗'} {listed(names)}", class_="right" if is_right else "wrong")
    said = element("span", "right" if is_right else "wrong", class_="unseen")
    text = "nothing" if first["id"] is None else _document(first["id"], first["text"])
    facts = "; ".join(filter(None, (_facts(found["answers"][name], name, is_right) for name in names)))
    return element("li", verdict, " ", said, element("p", text), element("small", facts))


def _facts(answer: dict[str, Any], name: str, is_right: bool) -> str:
    facts = [] if answer["probability"] is None else [f"probability {answer['probability']:.2f}"]
    if not is_right:
        rank = answer["relevant_rank"]
        facts.append(f"first relevant document at rank {rank}" if rank else "found no relevant document")
    return f"{name}: {', '.join(facts)}" if facts else ""


def _document(document: str, text: str) -> list[Element | str | int | None]:
    return [_cut(text), " ", element("code", document)]


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} …"
