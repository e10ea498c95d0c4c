"""Every system on every corpus: what a user would do instead, beside ours, on the same test queries.

    python systems.py SYSTEM/CORPUS [...] --data FOLDER_OF_BEIR_FOLDERS --work FOLDER [--gemma MODEL] [--mpnet MODEL]

Each job writes ``results/quality/systems/<system>/<corpus>.json`` and is skipped if that is there. Queries are 600 of a
split or all. One seed; corpora.py has three of the main cases.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
from ir_measures import R, nDCG

from rabtriever import DistillConfig, Rabtriever, RetrievalData, distill
from rabtriever.encoders.loading import load_encoder
from rabtriever.evaluation.lexical import lexical_index
from rabtriever.training.teacher import Teacher

sys.path.insert(0, str(Path(__file__).parents[1]))
from quality.corpora import Bench, batches, distil, unlabelled  # noqa: E402
from quality.rivals import fine_tune, fit_adapter  # noqa: E402
from record import machine  # noqa: E402

RESULTS = Path(__file__).parents[1] / "results" / "quality" / "systems"
SPLITS = ("test", "test_unseen")
MEASURES, RANKED = [R @ 1, R @ 5, nDCG @ 5, nDCG @ 10], 10
REQUESTS, QUERIES, RERANKED = 3000, 600, 10
FUSED = np.float32(1e3)  # lifts reranked documents above the others
Scores = Callable[[list[str]], np.ndarray]


def by_words(bench: Bench, data: RetrievalData) -> Scores:
    """BM25 of an index; a document that shares no word with the query is not found."""
    index, row_of = lexical_index(data.documents.values()), {key: row for row, key in enumerate(data.documents)}

    def score(queries: list[str]) -> np.ndarray:
        result = np.full((len(queries), len(row_of)), -np.inf, np.float32)
        for row, hits in zip(result, index.search(queries, RANKED, mode="bm25"), strict=True):
            row[[row_of[hit.id] for hit in hits]] = -np.arange(len(hits))
        return result

    return score


def of_retriever(retriever: Rabtriever, data: RetrievalData) -> Scores:
    """A retriever's log-odds."""
    documents = retriever.encode_document(contents(data))
    return lambda queries: retriever.similarity(retriever.encode_query(queries), documents)


def encoder(name: str) -> Callable[[Bench, RetrievalData], Scores]:
    """An encoder as it is."""
    return lambda bench, data: of_retriever(Rabtriever(bench.model(name)), data)


def fine_tuned(bench: Bench, data: RetrievalData) -> Scores:
    """MiniLM fine-tuned on the labels by sentence-transformers."""
    folder = fine_tune(bench.model("minilm"), data, Path(bench.args.work) / f"fine-tuned-{data.name}")
    return of_retriever(Rabtriever(load_encoder(folder)), data)


def adapted(bench: Bench, data: RetrievalData) -> Scores:
    """EmbeddingGemma with a linear map of its query embeddings, fitted to the labels."""
    encoder, matrix = bench.model("gemma"), fit_adapter(bench.model("gemma"), data)
    documents = encoder.encode_documents(contents(data))
    return lambda queries: encoder.encode_queries(queries) @ matrix @ documents.T


def ours(
    name: str, student: str, teacher: str, labels: bool = True, **options: float
) -> Callable[[Bench, RetrievalData], Scores]:
    """A student, taught by labels (of the train split), a teacher, or both; saved in the work folder."""

    def make(bench: Bench, data: RetrievalData) -> Scores:
        given = data if labels else unlabelled(data, REQUESTS)
        retriever, _ = distil(bench, given, student, teacher, teacher_calls=0, **options)
        retriever.save_pretrained(Path(bench.args.work) / f"{name}-{data.name}")
        return of_retriever(retriever, data)

    return make


def on_fine_tuned(bench: Bench, data: RetrievalData) -> Scores:
    """A predictor, taught by the same labels, over the MiniLM that sentence-transformers fine-tuned."""
    folder = fine_tune(bench.model("minilm"), data, Path(bench.args.work) / f"fine-tuned-{data.name}")
    return ours("ours-on-fine-tuned", str(folder), "labels")(bench, data)


def tuned(bench: Bench, data: RetrievalData) -> Scores:
    """MiniLM, whose weights `distill --tune-encoder full` tunes on the labels, and a predictor over it."""
    config, folder = DistillConfig(teacher_calls=0), Path(bench.args.work) / f"ours-tuned-{data.name}"
    encoder = bench.model("minilm")
    return of_retriever(distill(data, Teacher(), folder, config, encoder=encoder, tune_encoder="full"), data)


def shipped(rerank: bool) -> Callable[[Bench, RetrievalData], Scores]:
    """The model that ships, with its reranker or without."""

    def make(bench: Bench, data: RetrievalData) -> Scores:
        retriever = Rabtriever.from_pretrained("tools")
        score = of_retriever(retriever, data)
        return (lambda queries: reranked(retriever, contents(data), queries, score(queries))) if rerank else score

    return make


def reranked(retriever: Rabtriever, documents: list[str], queries: list[str], scores: np.ndarray) -> np.ndarray:
    """Returns the scores with those of the ten best fused with the reranker's, above all others."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :RERANKED]
    rows = np.arange(len(queries)).repeat(best.shape[1])
    reranker, share = retriever.reranker, retriever.rerank_share
    log_odds = reranker.score(queries, documents, np.stack([rows, best.ravel()], axis=1)).log_odds
    converted = retriever.calibration.convert(log_odds, reranker.calibration).reshape(best.shape)
    own, result = np.take_along_axis(scores, best, 1), scores.copy()
    np.put_along_axis(result, best, (1 - share) * own + share * converted + FUSED, 1)
    return result


SYSTEMS: dict[str, Callable[[Bench, RetrievalData], Scores]] = {
    "bm25": by_words,
    **{name: encoder(name) for name in ("minilm", "mpnet", "gemma")},
    "minilm-fine-tuned": fine_tuned,
    "gemma-adapter": adapted,
    "ours-labels": ours("ours-labels", "minilm", "labels"),
    "ours-teacher": ours("ours-teacher", "minilm", "gemma", labels=False),
    "ours-both": ours("ours-both", "minilm", "gemma"),
    "ours-gemma-labels": ours("ours-gemma-labels", "gemma", "labels"),
    "ours-labels-stay": ours("ours-labels-stay", "minilm", "labels", new_document_gain=1.0),
    "ours-gemma-labels-stay": ours("ours-gemma-labels-stay", "gemma", "labels", new_document_gain=1.0),
    "ours-on-fine-tuned": on_fine_tuned,
    "ours-tuned": tuned,
    "tools": shipped(rerank=False),
    "tools-rerank10": shipped(rerank=True),
}


def contents(data: RetrievalData) -> list[str]:
    """Returns the documents as models read them."""
    return [document.content for document in data.documents.values()]


def measure(score: Scores, data: RetrievalData, split: str) -> dict[str, Any]:
    """Returns means over the queries of a sample, and R@1 of each; a query's own document is left out."""
    queries, ids, run = data.labelled_queries(split, QUERIES, 0), np.array(list(data.documents)), {}
    row_of = {key: row for row, key in enumerate(data.documents)}
    for part in batches(list(queries)):
        scores = np.array(score([queries[query] for query in part]), np.float32)
        for row, query in enumerate(part):
            if query in row_of:
                scores[row, row_of[query]] = -np.inf
        best = np.argsort(-scores, axis=1, kind="stable")[:, :RANKED]
        for query, of, row in zip(part, best, scores, strict=True):
            found = ids[of[np.isfinite(row[of])]].tolist()
            run[query] = {document: -float(rank) for rank, document in enumerate(found)}
    qrels = {query: data.qrels[split][query] for query in queries}
    found = {(str(one.measure), one.query_id): one.value for one in ir_measures.iter_calc(MEASURES, qrels, run)}
    result: dict[str, Any] = {str(name): np.mean([found[str(name), query] for query in queries]) for name in MEASURES}
    return {"n_queries": len(queries), **result, "of_query": [round(found["R@1", query], 3) for query in queries]}


def main() -> None:
    """Runs jobs that have no result yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="+", help=f"SYSTEM/CORPUS; systems: {', '.join(SYSTEMS)}")
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", default="work")
    for name in ("gemma", "mpnet"):
        parser.add_argument(f"--{name}")
    bench = Bench(parser.parse_args())
    for job in bench.args.jobs:
        system, corpus = job.split("/")
        path = RESULTS / system / f"{corpus}.json"
        if path.exists():
            continue
        data, started = bench.data(corpus), time.perf_counter()
        score = SYSTEMS[system](bench, data)
        seconds = time.perf_counter() - started
        measured = {split: measure(score, data, split) for split in SPLITS if split in data.qrels}
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"system": system, "corpus": corpus, "seconds": round(seconds), "documents": len(data.documents)}
        path.write_text(json.dumps({**about, "splits": measured, "machine": machine()}, default=float) + "\n")
        print(job, {split: round(of["R@1"], 3) for split, of in measured.items()}, round(seconds), flush=True)


if __name__ == "__main__":
    main()
