"""The committed result files, and what is read from them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from quality.corpora import p_value  # noqa: E402

RESULTS = Path(__file__).parents[1] / "results"


class Results:
    """The committed files.

    Attributes:
        systems: (system, corpus) -> what systems.py wrote.
        corpora: Job -> what corpora.py wrote.
    """

    def __init__(self, folder: Path = RESULTS) -> None:
        files = sorted((folder / "quality" / "systems").glob("*/*.json"))
        self.systems = {(file.parent.name, file.stem): json.loads(file.read_text()) for file in files}
        self.corpora = {
            file.stem: json.loads(file.read_text()) for file in sorted((folder / "quality" / "corpora").glob("*.json"))
        }
        self.cost = json.loads((folder / "quality" / "cost.json").read_text())["result"]
        self.latency = json.loads((folder / "quality" / "latency.json").read_text())["result"]
        self.learning = json.loads((folder / "quality" / "learning-curve.json").read_text())
        self.streams = json.loads((folder / "quality" / "learning-streams.json").read_text())
        self.no_answer = json.loads((folder / "quality" / "no_answer.json").read_text())["result"]
        files = {"own": "first_hit_own", "tools": "first_hit", "reranked": "first_hit_reranked"}
        read = {kind: json.loads((folder / "quality" / f"{name}.json").read_text()) for kind, name in files.items()}
        self.first_hit = {kind: of["result"] for kind, of in read.items()}
        self.context = json.loads((folder / "quality" / "context.json").read_text())
        self.passages = json.loads((folder / "quality" / "passages.json").read_text())["systems"]
        self.strong_teacher = json.loads((folder / "quality" / "strong_teacher.json").read_text())
        trained = sorted((folder / "training").glob("reranker_*.json"))
        self.rerankers = {file.stem.removeprefix("reranker_"): json.loads(file.read_text()) for file in trained}

    def figure(self, system: str, corpus: str, split: str = "test", measure: str = "R@1") -> float | None:
        """Returns a mean over queries, or None where nothing was measured."""
        found = self.systems.get((system, corpus), {"splits": {}})["splits"].get(split)
        return found and found[measure]

    def mean(self, system: str, corpora: list[str]) -> float | None:
        """Returns the mean R@1 over corpora, or None where one was not measured."""
        figures = [self.figure(system, corpus) for corpus in corpora]
        return None if None in figures else float(np.mean(figures))

    def minutes(self, system: str, corpora: list[str]) -> float:
        """Returns the mean minutes of a training on one core over corpora."""
        return float(np.mean([self.systems[system, corpus]["seconds"] for corpus in corpora])) / 60

    def p(self, a: str, b: str, corpus: str, split: str = "test") -> float:
        """Returns the two-sided p of the paired randomisation test of two systems' R@1."""
        return p_value(*(np.array(self.systems[system, corpus]["splits"][split]["of_query"]) for system in (a, b)))

    def shown(self, system: str, corpus: str, split: str, base: str) -> str:
        """Returns R@1, with a star if it differs from that of ``base``."""
        value = self.figure(system, corpus, split)
        if value is None:
            return ""
        compared = system != base and self.figure(base, corpus, split) is not None
        return number(value) + ("*" if compared and self.p(system, base, corpus, split) < 0.05 else "")


def number(value: float | None) -> str:
    """Returns a share with three digits, as .123."""
    return "" if value is None else f"{value:.3f}".removeprefix("0")
