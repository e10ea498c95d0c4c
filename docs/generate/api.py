"""Writes the pages api/*.md from the public names and their docstrings; mkdocs-gen-files runs it."""

from __future__ import annotations

import mkdocs_gen_files

import rabtriever

# A page holds the public names of these parts of the package.
PAGES = {
    "retriever": ("Retriever and index", ("retriever", "index")),
    "data": ("Data", ("data", "sources")),
    "teachers": ("Teachers and rerankers", ("teachers", "rerankers", "llm")),
    "training": ("Training and evaluation", ("training", "evaluation")),
    "errors": ("Errors", ("errors",)),
}
PAGE_OF = {part: page for page, (_, parts) in PAGES.items() for part in parts}


def names_of_pages() -> dict[str, list[str]]:
    """Returns the public names of each page, those of the first part first."""
    names: dict[str, list[str]] = {page: [] for page in PAGES}
    parts = list(PAGE_OF)
    for name in sorted(rabtriever.__all__, key=lambda name: (parts.index(part_of(name)), name)):
        names[PAGE_OF[part_of(name)]].append(name)
    return names


def part_of(name: str) -> str:
    """Returns the part of the package that a public name comes from; raises KeyError if no page holds that part."""
    part = rabtriever._MODULE_OF[name].partition(".")[0]
    if part not in PAGE_OF:
        raise KeyError(f"rabtriever.{name}: no page has the names of rabtriever.{part}; add it to PAGES in {__file__}")
    return part


for page, names in names_of_pages().items():
    with mkdocs_gen_files.open(f"api/{page}.md", "w") as file:
        file.write(f"# {PAGES[page][0]}\n\n" + "\n".join(f"::: rabtriever.{name}\n" for name in names))
