"""What teachers are worth on a data set, from a few pairs, before many are paid for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from rabtriever.data import RetrievalData
from rabtriever.encoders.base import Encoder
from rabtriever.errors import InputError
from rabtriever.evaluation.choice_mass import check_choice_mass
from rabtriever.evaluation.sample import Sample, draw_sample
from rabtriever.rerankers.base import Reranker
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.rerankers.store import StoredReranker
from rabtriever.scoring.fusion import COSINE_WEIGHT
from rabtriever.teachers import Teacher, is_encoder


def judge(
    data: RetrievalData,
    teachers: Mapping[str, Teacher],
    encoder: Encoder,
    split: str | None = None,
    queries_limit: int = 50,
    depth: int = 8,
    seed: int = 0,
    show_progress_bar: bool = False,
) -> dict[str, Any]:
    """Measures teachers on a sample of queries, alone and added to the encoder's similarity.

    Rerankers read the encoder's best ``depth`` documents of a query; a teacher that is an encoder ranks all. A sum is
    30 times the encoder's similarity plus the log-odds of its teachers.

    Args:
        data: Documents, queries, and labels if there are any.
        teachers: Name -> teacher.
        encoder: What the retriever starts from.
        split: Which labels; by default ``dev``, held out of ``train`` where there is none, else ``test``.
        queries_limit: Most queries, drawn by ``seed``.
        depth: Documents of each query that are read.
        seed: Of that draw.
        show_progress_bar: Whether to show progress on stderr.

    Returns:
        ``{"split", "n_queries", "depth", "encoder": {"R@1", "R@depth", "calibration_error"}, "teachers": {name: {"R@1",
        "R@1_fused", "calibration_error", "calibration_error_fused", "choice_mass", "ms_per_pair", "cost_per_pair"}},
        "all": {"R@1_fused", "calibration_error_fused"} of several teachers, "agreement": [{"a", "b", "share"}]}``.
        The calibration error is that of the probabilities of the encoder's best ``depth`` documents: a reranker's own;
        an encoder's and a sum's by softmax over documents. The agreement is the share of queries for which two rank the
        same document first. What cannot be known is None: all measures without labels, the mass of what is no LLM, the
        cost of what costs nothing.

    Raises:
        InputError: a limit below 1, no such labels, no queries, or an LLM that does not choose between its two answers.
    """
    if not teachers:
        raise InputError("no teacher to judge: give at least one")
    sample = draw_sample(data, split, queries_limit, depth, seed)
    return make_report(find_candidates(sample, encoder, show_progress_bar), teachers, show_progress_bar)


@dataclass(frozen=True)
class Candidates:
    """What rerankers read of a sample.

    Attributes:
        sample: Queries and documents.
        embeddings: The encoder's of all documents, float32 (m, H).
        similarity: float64 (n, m), -inf of a query's own document.
        pairs: int64 (n depth, 2) of (query, document) positions, each query's most similar documents.
    """

    sample: Sample
    embeddings: np.ndarray
    similarity: np.ndarray
    pairs: np.ndarray


def find_candidates(sample: Sample, encoder: Encoder, show_progress_bar: bool = False) -> Candidates:
    """Encodes a sample's texts and finds what rerankers read."""
    embeddings = encoder.encode_documents(sample.documents, show_progress_bar=show_progress_bar)
    similarity = _similarities(encoder, sample, embeddings)
    best = np.argsort(-similarity, axis=1, kind="stable")[:, : sample.depth]
    pairs = np.stack([np.arange(len(best)).repeat(sample.depth), best.ravel()], axis=1)
    return Candidates(sample, embeddings, similarity, pairs)


def make_report(
    candidates: Candidates, teachers: Mapping[str, Teacher | StoredReranker], show_progress_bar: bool = False
) -> dict[str, Any]:
    """Returns the report of :func:`judge` on candidates; scores that were stored are not computed again."""
    sample, similarity, pairs = candidates.sample, candidates.similarity, candidates.pairs
    base = COSINE_WEIGHT * similarity
    judged = {name: _judge(name, teacher, sample, pairs, show_progress_bar) for name, teacher in teachers.items()}
    sums = {name: base + one.log_odds for name, one in judged.items()}
    everything = base + np.sum([one.log_odds for one in judged.values()], axis=0)
    report: dict[str, Any] = {
        "split": sample.split,
        "n_queries": len(sample.queries),
        "depth": sample.depth,
        "encoder": {
            "R@1": sample.recall(base),
            "R@depth": sample.recall(base, sample.depth),
            "calibration_error": sample.calibration_error(_softmax(base), pairs),
        },
        "teachers": {
            name: {
                "R@1": sample.recall(one.log_odds),
                "R@1_fused": sample.recall(sums[name]),
                "calibration_error": sample.calibration_error(one.probabilities, pairs),
                "calibration_error_fused": sample.calibration_error(_softmax(sums[name]), pairs),
                **one.costs,
            }
            for name, one in judged.items()
        },
    }
    if len(judged) > 1:
        error = sample.calibration_error(_softmax(everything), pairs)
        report["all"] = {"R@1_fused": sample.recall(everything), "calibration_error_fused": error}
    firsts = [("encoder", base.argmax(1)), *((name, one.log_odds.argmax(1)) for name, one in judged.items())]
    report["agreement"] = [
        {"a": a, "b": b, "share": float((first_a == first_b).mean())}
        for (a, first_a), (b, first_b) in combinations(firsts, 2)
    ]
    return report


class _Judged(NamedTuple):
    """A teacher's log-odds float64 (n, m), -inf where it read nothing, their probabilities, and what they cost."""

    log_odds: np.ndarray
    probabilities: np.ndarray
    costs: Mapping[str, float | None]


def _similarities(encoder: Encoder, sample: Sample, embeddings: np.ndarray) -> np.ndarray:
    """Returns the encoder's similarities float64 (n, m), -inf of a query's own document."""
    result = (encoder.encode_queries(sample.queries) @ embeddings.T).astype(np.float64)
    for q, d in sample.own:
        result[q, d] = -np.inf
    return result


def _judge(
    name: str, teacher: Teacher | StoredReranker, sample: Sample, pairs: np.ndarray, show_progress_bar: bool
) -> _Judged:
    if isinstance(teacher, StoredReranker):
        scored = teacher.score(sample.queries, sample.documents, pairs).log_odds
        return _judged(teacher, scored, sample, pairs, teacher.costs)
    costs: dict[str, float | None] = dict.fromkeys(("choice_mass", "ms_per_pair", "cost_per_pair"))
    if is_encoder(teacher):
        teacher.encode_queries(sample.queries[:1])  # loads it
        started = time.perf_counter()
        embeddings = teacher.encode_documents(sample.documents, show_progress_bar=show_progress_bar)
        log_odds = COSINE_WEIGHT * _similarities(teacher, sample, embeddings)
        costs["ms_per_pair"] = 1000 * (time.perf_counter() - started) / log_odds.size
        return _Judged(log_odds, _softmax(log_odds), costs)
    if isinstance(teacher, GenerativeReranker):
        costs["choice_mass"] = check_choice_mass(name, teacher, sample.queries, sample.documents, pairs)
    else:
        teacher.score(sample.queries, sample.documents, pairs[:1])  # loads it
    remote: Any = teacher if hasattr(teacher, "cost") else None
    spent, started = remote.cost if remote else 0, time.perf_counter()
    scored = teacher.score(sample.queries, sample.documents, pairs, show_progress_bar=show_progress_bar).log_odds
    costs["ms_per_pair"] = 1000 * (time.perf_counter() - started) / len(pairs)
    if remote:
        costs |= {"cost_per_pair": (remote.cost - spent) / len(pairs), "choice_mass": remote.mass}
    return _judged(teacher, scored, sample, pairs, costs)


def _judged(
    reranker: Reranker | StoredReranker,
    scored: np.ndarray,
    sample: Sample,
    pairs: np.ndarray,
    costs: Mapping[str, float | None],
) -> _Judged:
    log_odds = np.full((len(sample.queries), len(sample.documents)), -np.inf)
    log_odds[tuple(pairs.T)] = scored
    return _Judged(log_odds, reranker.calibration.probability(log_odds), costs)


def _softmax(scores: np.ndarray) -> np.ndarray:
    """Returns each row's scores as shares: float64 (n, m)."""
    weights: np.ndarray = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
