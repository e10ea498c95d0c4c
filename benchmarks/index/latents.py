"""Real latents for the benchmarks of the index: documents of BEIR folders and queries with judgements, m = 128.

Two students of models/general are distilled for it, ``mlp`` and ``quadratic``, of width 128; what was made before is
taken from WORK. The LLM passes take hours on a CPU; they are cached by the package.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rabtriever.data import load_data
from rabtriever.retriever import Rabtriever
from rabtriever.training.config import DistillConfig
from rabtriever.training.distill import distill
from rabtriever.training.teacher_cache import TeacherCache

TEACHER = Path(__file__).parents[2] / "models" / "general"
TAUGHT = ("metatool", "saycan_next", "esconv", "openbookqa", "strategyqa_facts")
CORPORA = {  # documents to take of each at most, what a CPU encodes in some hours
    "openbookqa": None,
    "strategyqa_facts": None,
    "metatool": None,
    "empathetic_response": None,
    "msmarco_dl1920": 6000,
    "nfcorpus": None,
}
JUDGED = ("metatool", "nfcorpus")  # where int8's loss in R@10 is measured
ASKED = ("openbookqa", "strategyqa_facts", "metatool", "nfcorpus")  # whose test queries are searched with
QUERIES = 50  # of each


@dataclass(frozen=True)
class Latents:
    """What the benchmarks search.

    Attributes:
        documents: float32 (n, 129), of all corpora.
        texts: Theirs.
        queries: float32 (n_queries, 129).
        asked: Theirs.
        positive: Leading units that count with a plus; None for an inner product.
        judged: Name -> documents, queries and judgements (n_queries, n_documents) of a set.
    """

    documents: np.ndarray
    texts: list[str]
    queries: np.ndarray
    asked: list[str]
    positive: int | None
    judged: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


def latents(data: Path, work: Path, kind: str) -> Latents:
    """Latents of a predictor of this kind."""
    folder = work / f"{kind}128"
    if not folder.is_dir():
        mixed = concatenate([load_data(data / name) for name in TAUGHT], 2500, 0)
        size = {"teacher_calls": 3000, "steps": 3000} if kind == "mlp" else {"teacher_calls": 1500, "steps": 2000}
        distill(mixed, TEACHER, folder, DistillConfig(predictor=kind, width=128, rounds=4, **size))
    student = Rabtriever.from_pretrained(folder)
    cache, fold = TeacherCache(student.teacher), student.predictor.fold(student.teacher.w)

    def states(side: str, texts: list[str]) -> np.ndarray:
        return cache.states(side, texts, student.pooling).numpy()

    documents, queries, judged = [], [], {}
    all_texts: list[str] = []
    all_asked: list[str] = []
    for name, most in CORPORA.items():
        source = load_data(data / name)
        texts = [document.content for document in source.documents.values()][:most]
        documents.append(fold.document(states("document", texts)))
        all_texts += texts
        if name in ASKED:
            some = list(source.labelled_queries("test", QUERIES).values())
            queries.append(fold.query(states("query", some)))
            all_asked += some
        if name in JUDGED:
            asked = source.labelled_queries("test", 300)
            qrels, ids = source.qrels["test"], list(source.documents)
            right = np.array([[qrels[query].get(document, 0) > 0 for document in ids] for query in asked])
            judged[name] = documents[-1], fold.query(states("query", list(asked.values()))), right
    return Latents(np.concatenate(documents), all_texts, np.concatenate(queries), all_asked, fold.positive, judged)


def enlarged(real: np.ndarray, n: int, path: Path) -> np.ndarray:
    """As many latents on disk: the real ones, then copies of them, moved by 0.3 of each dimension's spread."""
    if not path.is_file():
        rng = np.random.default_rng(0)
        partial = path.with_suffix(".partial")
        array = np.lib.format.open_memmap(partial, "w+", np.float32, (n, real.shape[1]))
        spread = 0.3 * real.std(axis=0)
        for start in range(0, n, len(real)):
            some = real[: n - start]
            noise = spread * rng.standard_normal(some.shape, np.float32) if start else 0
            array[start : start + len(some)] = some + noise
        array.flush()
        partial.rename(path)
    return np.load(path, mmap_mode="r")
