"""HTML and SVG as a tree of elements, so that every text is escaped and every element closed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element, tostring

Child = Element | str | int | None
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # no HTML may hold them


def element(tag: str, *children: Child | Iterable[Child], **attributes: str | float | None) -> Element:
    """Makes an element.

    Args:
        tag: Its name.
        *children: Elements, texts and numbers, or lists of them; None is left out.
        **attributes: ``class_`` stands for ``class``, ``aria_label`` for ``aria-label``; None is left out.
    """
    given = {_hyphens(name): _clean(value) for name, value in attributes.items() if value is not None}
    made = Element(tag, given)
    for child in _flat(children):
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + _clean(child)
        else:
            made.text = (made.text or "") + _clean(child)
    return made


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Child | Iterable[Child]]]) -> Element:
    """Makes a table that scrolls sideways by itself where it is too wide; the first cell of a row is its heading."""
    body = [
        element("tr", element("th", row[0], scope="row"), [element("td", cell) for cell in row[1:]]) for row in rows
    ]
    top = element("thead", element("tr", [element("th", name, scope="col") for name in head]))
    made = element("table", element("caption", caption), top, element("tbody", body))
    return element("div", made, class_="scroll", role="region", tabindex="0", aria_label=caption)


def section(title: str, *content: Element | str | None) -> Element:
    """Makes a section of the page; texts in it are notes."""
    parts = [element("p", part, class_="note") if isinstance(part, str) else part for part in content]
    return element("section", element("h2", title), parts)


def listed(names: Sequence[str]) -> str:
    """Returns names as in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def page(title: str, style: str, *body: Child | Iterable[Child]) -> str:
    """Returns a whole HTML page."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", style),
    )
    root = element("html", head, element("body", *body), lang="en")
    return "<!doctype html>\n" + tostring(root, encoding="unicode", method="html") + "\n"


def _flat(children: Iterable[Child | Iterable[Child]]) -> Iterable[Element | str | int]:
    for child in children:
        if isinstance(child, Element | str | int):
            yield child
        elif child is not None:
            yield from _flat(child)


def _hyphens(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _clean(value: str | float) -> str:
    return CONTROL.sub("\ufffd", value if isinstance(value, str) else format(value, "g"))
