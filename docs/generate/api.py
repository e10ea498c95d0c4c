"""Writes the pages api/*.md from names and their docstrings, which no build imports; mkdocs-gen-files runs it."""

from __future__ import annotations

import mkdocs_gen_files

import rabtriever

# A page holds the public names of these parts of the package, and then what else pages tell to import: names, or all
# of a file.
PAGES = {
    "retriever": ("Retriever and index", ("retriever", "index"), ("index.syncing.Changes",)),
    "data": ("Data", ("data",), ("data.load_requests", "data.read_corpus")),
    "catalogues": (
        "Catalogues",
        (),
        (
            "sources.read_source",
            "sources.load_source",
            "evaluation.labelled_requests.read_labelled_requests",
            "evaluation.labelled_requests.LabelledRequest",
            "evaluation.check.check_catalogue",
            "sources.mcp_config",
        ),
    ),
    "teachers": (
        "Teachers and rerankers",
        ("teachers", "rerankers", "llm"),
        ("rerankers.remote.reranker.RemoteReranker",),
    ),
    "training": (
        "Training and evaluation",
        ("training", "evaluation"),
        (
            "evaluation.report.write_report",
            "encoders.difference.save_difference",
            "encoders.sentence_files.find_sentence_model",
        ),
    ),
    "integrations": (
        "Frameworks and export",
        (),
        tuple(
            f"integrations.{name}"
            for name in "langchain llama_index haystack tool_search vectors sentence_transformers onnx mteb".split()
        ),
    ),
    "errors": ("Errors", ("errors",), ()),
}
PAGE_OF = {part: page for page, (_, parts, _) in PAGES.items() for part in parts}


def names_of_pages() -> dict[str, list[str]]:
    """Returns what each page holds: the public names, those of the first part first, then what else it lists."""
    names: dict[str, list[str]] = {page: [] for page in PAGES}
    parts = list(PAGE_OF)
    for name in sorted(rabtriever.__all__, key=lambda name: (parts.index(part_of(name)), name)):
        names[PAGE_OF[part_of(name)]].append(name)
    return {page: [*names[page], *more] for page, (_, _, more) in PAGES.items()}


def part_of(name: str) -> str:
    """Returns the part of the package that a public name comes from; raises KeyError if no page holds that part."""
    part = rabtriever._MODULE_OF[name].partition(".")[0]
    if part not in PAGE_OF:
        raise KeyError(f"rabtriever.{name}: no page has the names of rabtriever.{part}; add it to PAGES in {__file__}")
    return part


for page, names in names_of_pages().items():
    with mkdocs_gen_files.open(f"api/{page}.md", "w") as file:
        file.write(f"# {PAGES[page][0]}\n\n" + "\n".join(f"::: rabtriever.{name}\n" for name in names))
