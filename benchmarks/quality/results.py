"""docs/results.md, its figures and the tables of README.md, from the committed result files: make results.

A ``docs/*.head.md`` is a page with ``{{...}}`` where a figure or a table belongs (:func:`fill`). In README.md the
tables stand between ``<!-- NAME -->`` and ``<!-- /NAME -->``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from quality.names import NEVER, OWN, TITLES, TRAINED, UNSEEN  # noqa: E402
from quality.result_files import Results, number  # noqa: E402
from quality.tables import TABLES  # noqa: E402

ROOT = Path(__file__).parents[2]
FILLED = ("results", "no-answer", "feedback", "context", "choose")  # pages of docs/, from ``<name>.head.md``
NUMBERS: dict[str, Callable[..., float | None]] = {
    "mean": lambda r, system, which: r.mean(system, {"own": OWN, "never": NEVER}[which]),
    "context": lambda r, job, kind: r.context[job][kind]["R@1"],
    "job": lambda r, name: r.corpora[name]["mean"],
    "reranker": lambda r, name: r.rerankers[name]["result"]["systems"]["reranker"]["R@1"],
    "learned": lambda r, name, labels: next(s["after"] for s in r.learning[name] if s["labels"] == int(labels)),
}


def fill(text: str, results: Results) -> str:
    """Replaces ``{{...}}`` by what the files say.

    ``{{table NAME}}``; ``{{SYSTEM/CORPUS}}`` and ``{{SYSTEM/CORPUS/SPLIT/MEASURE}}``, a mean over queries;
    ``{{mean SYSTEM own}}`` or ``never``, over corpora; ``{{p A B CORPUS}}``; ``{{job NAME}}``, the mean R@1 of a job of
    corpora.py; ``{{context JOB with}}`` or ``without``, of context.py; ``{{learned CORPUS LABELS}}``, R@1 after so many
    choices; ``{{reranker NAME}}``, R@1 of a reranker alone; ``{{minutes SYSTEM CORPUS}}``, of a training; ``{{ms
    SYSTEM}}``; ``{{prices}}``.
    """

    def value(match: re.Match[str]) -> str:
        kind, *words = match[1].split()
        if kind == "table":
            return TABLES[words[0]](results)
        if kind == "p":
            p = results.p(*words)
            return "< .001" if p < 0.001 else number(p)
        if kind == "prices":
            return ", ".join(f"{name} (${price:g})" for name, price in results.cost["prices"].items())
        if kind == "minutes":
            return f"{results.minutes(words[0], words[1:]):.0f}"
        if kind == "ms":
            return f"{results.latency['ms'][words[0]]:.0f}"
        if kind in NUMBERS:
            return number(NUMBERS[kind](results, *words))
        shown = number(results.figure(*kind.split("/")))
        if not shown:
            raise KeyError(match[0])
        return shown

    return re.sub(r"\{\{(.+?)\}\}", value, text)


def fill_readme(text: str, results: Results) -> str:
    """Replaces the tables between ``<!-- NAME -->`` and ``<!-- /NAME -->``."""
    for name in re.findall(r"<!-- ([a-z-]+) -->", text):
        new = f"<!-- {name} -->\n{TABLES[name](results)}\n<!-- /{name} -->"
        text = re.sub(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _, new=new: new, text, flags=re.S)
    return text


def pages(results: Results) -> dict[Path, str]:
    """Returns the pages that these results make."""
    docs, readme = ROOT / "docs", ROOT / "README.md"
    return {
        **{docs / f"{name}.md": fill((docs / f"{name}.head.md").read_text("utf-8"), results) for name in FILLED},
        readme: fill_readme(readme.read_text(encoding="utf-8"), results),
    }


def main() -> None:
    """Writes pages and figures."""
    from quality import figures

    results = Results()
    for path, text in pages(results).items():
        path.write_text(text, encoding="utf-8")
    folder = ROOT / "docs" / "figures"
    minutes = {system: results.minutes(system, OWN) for system in TRAINED}
    figures.pareto(folder / "pareto.svg", partial(results.mean, corpora=OWN), results.latency["ms"], minutes)
    figures.learning(folder / "learning.svg", {TITLES[name]: results.learning[name] for name in OWN})
    figures.labels(folder / "labels.svg", results.corpora)
    figures.requests(folder / "requests.svg", results.corpora)
    figures.elsewhere(folder / "elsewhere.svg", results.figure, NEVER, UNSEEN, TITLES)


if __name__ == "__main__":
    main()
