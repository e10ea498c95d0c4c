"""Real latents for the benchmarks of the index: documents of BEIR folders and queries with judgements, m = 128.

Two retrievers of width 128, ``mlp`` and ``quadratic``, are distilled from the model that ships, on labels alone; what
was made before is taken from WORK. Encoding all corpora takes hours on a CPU, those of --quick some minutes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rabtriever.data import concatenate, load_data
from rabtriever.persistence.hub import shipped_model
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.layout import ScoreLayout

TRAINED_ON = ("metatool",)
CORPORA = {  # documents of each, at most
    "openbookqa": None,
    "strategyqa_facts": None,
    "metatool": None,
    "empathetic_response": None,
    "msmarco_dl1920": 6000,
    "nfcorpus": None,
}
QUICK_CORPORA = {"strategyqa_facts": 4000, "metatool": None}
LABELLED = ("metatool", "nfcorpus")  # on which int8's loss in R@10 is measured
SEARCHED_WITH = ("openbookqa", "strategyqa_facts", "metatool", "nfcorpus")  # whose test queries are searched with
QUERIES_PER_SET = 50


@dataclass(frozen=True)
class Latents:
    """What the benchmarks search.

    Attributes:
        documents: float32 (n, 130), of all corpora.
        texts: Their texts.
        queries: float32 (n_queries, 130).
        query_texts: Their texts.
        layout: What the columns mean.
        labelled: Name -> documents, queries and labels bool (n_queries, n_documents) of a set.
    """

    documents: np.ndarray
    texts: list[str]
    queries: np.ndarray
    query_texts: list[str]
    layout: ScoreLayout
    labelled: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


def real_latents(data: Path, work: Path, kind: str, quick: bool) -> Latents:
    """Returns latents of a predictor of this kind."""
    folder = work / f"{kind}128"
    if not folder.is_dir():
        from rabtriever.training.config import DistillConfig
        from rabtriever.training.distill import distill

        mixed = concatenate([load_data(data / name) for name in TRAINED_ON], 2500, 0)
        config = DistillConfig(predictor=kind, hidden_units=128, teacher_calls=0, steps=1000, calibration_queries=0)
        distill(mixed, shipped_model("tools"), folder, config, encoder="teacher")
    retriever = Rabtriever.from_pretrained(folder)

    def encode(name: str, texts: Iterable[str], side: str) -> np.ndarray:
        path, texts = work / f"{kind}-{name}-{side}.npy", list(texts)
        if not path.is_file() or np.load(path, "r").shape != (len(texts), retriever.dim):
            encode_side = retriever.encode_query if side == "query" else retriever.encode_document
            np.save(path, encode_side(texts, show_progress_bar=True))
        return np.load(path)

    documents, queries, labelled = [], [], {}
    texts: list[str] = []
    query_texts: list[str] = []
    for name, limit in (QUICK_CORPORA if quick else CORPORA).items():
        source = load_data(data / name)
        of_set = [document.content for document in source.documents.values()][:limit]
        documents.append(encode(f"{name}-{len(of_set)}", of_set, "document"))
        texts += of_set
        if name in SEARCHED_WITH:
            some = list(source.labelled_queries("test", QUERIES_PER_SET).values())
            queries.append(encode(name, some, "query"))
            query_texts += some
        if name in LABELLED:
            chosen = source.labelled_queries("test", 300)
            qrels, ids = source.qrels["test"], list(source.documents)
            labels = np.array([[qrels[query].get(document, 0) > 0 for document in ids] for query in chosen])
            labelled[name] = documents[-1], encode(f"{name}-labelled", chosen.values(), "query"), labels
    layout = retriever.layout
    return Latents(np.concatenate(documents), texts, np.concatenate(queries), query_texts, layout, labelled)


def enlarged(real: np.ndarray, n: int, path: Path) -> np.ndarray:
    """Returns n latents on disk: the real ones, then copies of them, moved by 0.3 of each dimension's spread."""
    if not path.is_file() or np.load(path, "r").shape != (n, real.shape[1]):
        rng = np.random.default_rng(0)
        partial = path.with_suffix(".partial")
        array = np.lib.format.open_memmap(partial, "w+", np.float32, (n, real.shape[1]))
        spread = 0.3 * real.std(axis=0)
        spread[-2] = 0  # gains are copied
        for start in range(0, n, len(real)):
            some = real[: n - start]
            noise = spread * rng.standard_normal(some.shape, np.float32) if start else 0
            array[start : start + len(some)] = some + noise
        array.flush()
        partial.rename(path)
    return np.load(path, mmap_mode="r")
