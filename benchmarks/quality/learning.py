"""Learning in use: R@1 on later requests after 50, 200, 1,000 and 5,000 choices, a tenth of them wrong.

    python learning.py curve|streams|fine-tuned --data FOLDER_OF_BEIR_FOLDERS [--corpora ...]

``curve``: an index over MiniLM, untrained, gets the train requests of a corpus in an order drawn by the seed, and
learns (:func:`rabtriever.tune`) at each of these points; 600 test requests are the later ones. ``streams``: 13 orders
of four corpora, small steps; how often a version that was taken is worse on the later requests than the one before.
``fine-tuned``: MiniLM fine-tuned by sentence-transformers on the first 1,000 of the same choices, the wrong ones
included. Writes ``results/quality/learning-<what>.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from rabtriever import Index, Rabtriever, RetrievalData, tune
from rabtriever.data.feedback import FeedbackEvent
from rabtriever.encoders.loading import load_encoder
from rabtriever.training.teacher_cache import TeacherCache

sys.path.insert(0, str(Path(__file__).parents[1]))
from quality.corpora import OWN, Bench  # noqa: E402
from quality.rivals import fine_tune  # noqa: E402
from record import machine  # noqa: E402

RESULTS = Path(__file__).parents[1] / "results" / "quality"
POINTS, STREAM_POINTS, WRONG, LATER, STREAMS = (50, 200, 1000, 5000), (50, 100, 200, 400, 800), 0.1, 600, 13


class Corpus:
    """A corpus, its requests in an order, and the embeddings of all."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.data: RetrievalData = bench.data(name)
        self.encoder = bench.model("minilm")
        self.positives = self.data.positives("train")
        self.cache = TeacherCache(self.encoder)
        queries = self.data.labelled_queries("test", LATER, 0)
        self.right = [self.data.positives("test")[query] for query in queries]
        self.later = self.cache.states("query", list(queries.values())).numpy()
        self.states = self.cache.states("query", [self.data.queries[query] for query in self.positives]).numpy()

    def stream(self, seed: int) -> list[FeedbackEvent]:
        """Returns choices, a tenth of them of a random document."""
        random, ids = Random(seed), list(self.data.documents)
        order = random.sample(range(len(self.positives)), min(len(self.positives), POINTS[-1]))
        queries = list(self.positives)
        events = []
        for time_, row in enumerate(order):
            right = random.choice(self.positives[queries[row]])
            chosen = random.choice(ids) if random.random() < WRONG else right
            text = self.data.queries[queries[row]]
            events.append(FeedbackEvent(text, chosen, time=float(time_), state=self.states[row].astype(np.float16)))
        return events

    def recall(self, index: Index) -> float:
        """Returns R@1 of the index's retriever on the later requests."""
        retriever: Any = index.retriever
        documents = retriever.encode_document([document.content for document in self.data.documents.values()])
        ids = list(self.data.documents)
        best = retriever.similarity(
            retriever.query_latents(self.later, retriever.examples, retriever.correction), documents
        ).argmax(1)
        return float(np.mean([(ids[d] in right) / len(right) for d, right in zip(best, self.right, strict=True)]))


def follow(corpus: Corpus, seed: int, points: tuple[int, ...]) -> list[dict[str, Any]]:
    """Lets an index learn at each point from all choices so far; returns what it was worth each time."""
    retriever, events = Rabtriever(corpus.encoder, document_cache=100_000), corpus.stream(seed)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        index = Index.build(Path(folder) / "index", retriever, corpus.data.documents.values())
        before = corpus.recall(index)
        for point in points:
            started = time.perf_counter()
            report = tune(index, events[:point])
            seconds = time.perf_counter() - started
            after = corpus.recall(index)
            rows.append({"labels": point, "taken": report["version"] is not None, "before": before, "after": after})
            rows[-1] |= {"seconds": round(seconds, 2), "p": report["p"], "setting": report["setting"]}
            before = after
    return rows


def fine_tuned(corpus: Corpus, seed: int, point: int) -> dict[str, Any]:
    """Returns what fine-tuning the encoder on the same choices is worth."""
    data, started = corpus.data, time.perf_counter()
    chosen = {str(i): event for i, event in enumerate(corpus.stream(seed)[:point])}
    qrels = {"train": {key: {str(event.id): 1} for key, event in chosen.items()}}
    choices = replace(data, queries={key: str(event.query) for key, event in chosen.items()}, qrels=qrels)
    with tempfile.TemporaryDirectory() as folder:
        encoder = load_encoder(fine_tune(corpus.encoder, choices, Path(folder) / "model"))
        queries = list(data.labelled_queries("test", LATER, 0).values())
        documents = encoder.encode_documents([document.content for document in data.documents.values()])
        best, ids = (encoder.encode_queries(queries) @ documents.T).argmax(1), list(data.documents)
    recall = np.mean([(ids[d] in right) / len(right) for d, right in zip(best, corpus.right, strict=True)])
    return {"labels": point, "after": float(recall), "seconds": round(time.perf_counter() - started)}


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("curve", "streams", "fine-tuned"))
    parser.add_argument("--data", required=True)
    parser.add_argument("--corpora", nargs="+", default=OWN)
    args = parser.parse_args()
    bench, result = Bench(args), {}
    for name in args.corpora:
        corpus = Corpus(bench, name)
        if args.what == "curve":
            result[name] = follow(corpus, 0, POINTS)
        elif args.what == "fine-tuned":
            result[name] = fine_tuned(corpus, 0, POINTS[2])
        else:
            runs = [follow(corpus, seed, STREAM_POINTS) for seed in range(STREAMS)]
            taken = [row for run in runs for row in run if row["taken"]]
            worse = [row["after"] - row["before"] for row in taken if row["after"] < row["before"]]
            last = [run[-1]["after"] for run in runs]
            result[name] = {"streams": STREAMS, "taken": len(taken), "worse": len(worse), "by": sorted(worse)}
            result[name] |= {"start": runs[0][0]["before"], "end": float(np.mean(last)), "least_end": min(last)}
        print(name, json.dumps(result[name]), flush=True)
    path = RESULTS / f"learning-{args.what}.json"
    path.write_text(json.dumps({"what": args.what, "wrong": WRONG, **result, "machine": machine()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
