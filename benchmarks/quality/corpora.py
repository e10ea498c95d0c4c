"""Distillation on people's own corpora: without labels, with labels, documents that come later, corpora never seen.

    python corpora.py JOB [JOB ...] --data BEIR_FOLDERS [--gemma MODEL] [--mpnet MODEL] [--llm LLM] [--states LLM]

A student is ``minilm`` or one of these; ``states`` is an LLM's, frozen, as the encoder, ``minilm&states`` has both side
by side. Each job writes ``results/quality/corpora/<job>.json`` and is skipped if that is there. R@1 is that of the
scores of the retriever over all documents, on 600 test queries or all.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from rabtriever import DistillConfig, Rabtriever, RetrievalData, concatenate, load_data, load_reranker
from rabtriever.encoders.loading import load_encoder
from rabtriever.evaluation.measures import interval
from rabtriever.training.distiller import Distiller
from rabtriever.training.teacher import Teacher

sys.path.insert(0, str(Path(__file__).parents[1]))
from quality.rivals import fine_tune  # noqa: E402
from quality.side_by_side import SideBySide  # noqa: E402
from record import machine  # noqa: E402

RESULTS = Path(__file__).parents[1] / "results" / "quality" / "corpora"
FLIPS = 20_000
REQUESTS = 3000  # without labels, beside few labels
NEVER_TRAINED = (
    "toolalpaca_eval restbench_spotify apibank stabletoolbench callnavi nestful cheatsheets k8s_tools demo".split()
)
OWN = "hwu64 clinc150 banking77 metatool".split()


class Bench:
    """The models, loaded once each, and the data."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self._models = args, {}

    def model(self, name: str) -> Any:
        """Returns an encoder, two side by side, or the LLM as a reranker."""
        if name not in self._models and "&" in name:
            self._models[name] = SideBySide(*map(self.model, name.split("&")))
        if name not in self._models:
            path = getattr(self.args, name, None) or name
            if name == "llm":
                chat = {"preset": "chat", "task": "You match requests to tools."}
                self._models[name] = load_reranker(path, **chat, document_name="Tool", query_name="Request")
            else:
                self._models[name] = load_encoder(path)
        return self._models[name]

    def teacher(self, names: str) -> Teacher:
        """Returns the sum of models, ``+`` between their names; none for ``labels``."""
        models = [self.model(name) for name in names.split("+") if name != "labels"]
        encoders = [one for one in models if hasattr(one, "encode_queries")]
        return Teacher.of(encoders, [one for one in models if one not in encoders])

    def load(self, name: str) -> RetrievalData:
        """Returns a data set as it is."""
        return load_data(
            Path(__file__).parents[2] / "src/rabtriever/demo" if name == "demo" else Path(self.args.data) / name
        )

    def data(self, name: str) -> RetrievalData:
        """Returns a data set; of ESConv's dialogues the last 400 characters."""
        data = self.load(name)
        return replace(data, queries={q: t[-400:] for q, t in data.queries.items()}) if name == "esconv" else data


def sample(data: RetrievalData, split: str, limit: int | None = 600) -> dict[str, str]:
    """Returns labelled queries of a split."""
    return data.labelled_queries(split, limit, 0)


def hits(retriever: Rabtriever, data: RetrievalData, split: str, limit: int | None = 600) -> np.ndarray:
    """Returns R@1 of each query: float (n,)."""
    queries, ids = sample(data, split, limit), list(data.documents)
    latents = retriever.encode_document([document.content for document in data.documents.values()])
    found = np.concatenate(
        [
            retriever.similarity(retriever.encode_query(part), latents).argmax(1)
            for part in batches(list(queries.values()))
        ]
    )
    positives = data.positives(split)
    return np.array([(ids[d] in positives[q]) / len(positives[q]) for q, d in zip(queries, found, strict=True)])


def batches(texts: list[str], size: int = 512) -> list[list[str]]:
    """Returns the texts in parts."""
    return [texts[i : i + size] for i in range(0, len(texts), size)]


def p_value(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the two-sided p of the paired randomisation test."""
    difference = a - b
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(FLIPS, len(difference)))
    return float(((np.abs((signs * difference).mean(1)) >= abs(difference.mean()) - 1e-12).sum() + 1) / (FLIPS + 1))


def compare(ours: np.ndarray, base: np.ndarray) -> dict[str, Any]:
    """Returns R@1 of both with ours' interval, and the p of their difference."""
    return {"R@1": ours.mean(), "interval": interval(ours.tolist()), "zero_shot": base.mean(), "p": p_value(ours, base)}


def unlabelled(data: RetrievalData, n: int | None = None, without: set[str] = frozenset()) -> RetrievalData:
    """Returns a data set whose train queries, ``n`` of them, have lost their labels; tests stay."""
    train = sorted(data.qrels["train"])
    chosen = [train[i] for i in np.random.default_rng(0).permutation(len(train))][:n]
    tests = {split: qrels for split, qrels in data.qrels.items() if split not in ("train", "dev")}
    documents = {i: document for i, document in data.documents.items() if i not in without}
    if without:
        tests = {s: q for s, qrels in tests.items() if (q := {k: v for k, v in qrels.items() if not set(v) & without})}
    kept = set(chosen) | {query for qrels in tests.values() for query in qrels}
    queries = {query: text for query, text in data.queries.items() if query in kept}
    return RetrievalData(data.name, documents, queries, tests)


def distil(bench: Bench, data: RetrievalData, student: str, teacher: str, **options: Any) -> tuple[Rabtriever, dict]:
    """Distils and says how long that took."""
    started = time.perf_counter()
    distiller = Distiller(bench.model(student), bench.teacher(teacher), DistillConfig(**options))
    retriever = distiller.train(data)
    about = {"seconds": time.perf_counter() - started, "calls": distiller.cached_teacher.calls}
    about |= {"rounds": len(distiller.log), "fusion": asdict(retriever.fusion), "config": asdict(distiller.config)}
    return retriever, about


def no_labels(
    bench: Bench,
    name: str,
    student: str,
    teacher: str,
    n: str = "all",
    calls: str = "0",
    seeds: int = 3,
    **options: Any,
) -> dict:
    """A teacher's ranking of unlabelled requests."""
    data = bench.data(name)
    limit = None if n == "all" else int(n)
    base = hits(Rabtriever(bench.model(student)), data, "test")
    result: dict[str, Any] = {"requests": limit or len(data.qrels["train"])}
    encoders = [one for one in teacher.split("+") if one != "llm"]
    result["encoders"] = {one: hits(Rabtriever(bench.model(one)), data, "test").mean() for one in encoders}
    runs = []
    for seed in range(seeds):
        train = unlabelled(data, limit)
        retriever, about = distil(bench, train, student, teacher, seed=seed, teacher_calls=int(calls), **options)
        runs.append({**compare(hits(retriever, data, "test"), base), **about})
    return {**result, "mean": float(np.mean([run["R@1"] for run in runs])), "runs": runs}


def labels(
    bench: Bench, name: str, student: str, teacher: str = "labels", n: str = "all", seeds: int = 3, **options: Any
) -> dict:
    """Labels, with or without a teacher; all test queries."""
    data, encoder = bench.data(name), bench.model(student)
    base = hits(Rabtriever(encoder), data, "test", None) if encoder.has_similarity else None
    train = data if n == "all" else few_labels(data, int(n), 0 if teacher == "labels" else REQUESTS)
    runs = []
    for seed in range(seeds):
        retriever, about = distil(bench, train, student, teacher, seed=seed, teacher_calls=0, **options)
        ours = hits(retriever, data, "test", None)
        runs.append({**compare(ours, np.zeros_like(ours) if base is None else base), **about})
    return {"mean": float(np.mean([run["R@1"] for run in runs])), "runs": runs}


def fine_tuned(bench: Bench, name: str, student: str, n: str) -> dict:
    """The student, fine-tuned by sentence-transformers on as many labels as :func:`labels` gets; all test queries."""
    data = bench.data(name)
    with tempfile.TemporaryDirectory() as folder:
        encoder = load_encoder(fine_tune(bench.model(student), few_labels(data, int(n), 0), Path(folder) / "encoder"))
        ours = hits(Rabtriever(encoder), data, "test", None)
    compared = compare(ours, hits(Rabtriever(bench.model(student)), data, "test", None))
    return {"mean": compared["R@1"], "runs": [compared]}


def few_labels(data: RetrievalData, n: int, requests: int) -> RetrievalData:
    """Returns ``n`` labelled train queries, of which a tenth are held out, and others without labels."""
    train = sorted(data.qrels["train"])
    chosen = [train[i] for i in np.random.default_rng(0).permutation(len(train))]
    tests = {split: qrels for split, qrels in data.qrels.items() if split not in ("train", "dev")}
    used = {query for qrels in tests.values() for query in qrels} | set(chosen[: max(n, requests)])
    qrels = {**tests, "train": {query: data.qrels["train"][query] for query in chosen[:n]}}
    return replace(data, queries={query: data.queries[query] for query in data.queries if query in used}, qrels=qrels)


def never_worse(bench: Bench, sets: str, student: str, **options: Any) -> dict:
    """A student of some sets' labels on corpora that it has never seen, and on unseen documents."""
    data = concatenate([bench.data(name) for name in sets.split("+")])
    retriever, about = distil(bench, data, student, "labels", teacher_calls=0, **options)
    return {**elsewhere(bench, retriever, sets), **about}


def shipped(bench: Bench, sets: str, model: str) -> dict:
    """A saved retriever over a tuned MiniLM that learnt from some sets, on others, beside MiniLM itself."""
    return elsewhere(bench, Rabtriever.from_pretrained(model), sets, Rabtriever(bench.model("minilm")))


def elsewhere(bench: Bench, retriever: Rabtriever, sets: str, zero: Rabtriever | None = None) -> dict:
    """Measures a retriever beside encoders on corpora never seen, on unseen documents, and on ``sets``.

    ``encoder`` is its own, and ``zero_shot`` that of ``zero``, by default the same.
    """
    encoder, rows = Rabtriever(retriever.encoder), {}
    splits = [(name, "test") for name in NEVER_TRAINED]
    splits += [(name, "test_unseen") for name in "clinc150 hwu64 banking77 ultratool tldr alfred".split()]
    for name, split in [*splits, *((name, "test") for name in sets.split("+"))]:
        data = bench.data(name)
        rows[f"{name} {split}"] = compare(hits(retriever, data, split), hits(zero or encoder, data, split))
        rows[f"{name} {split}"]["encoder"] = hits(encoder, data, split).mean()
    never = [rows[f"{name} test"] for name in NEVER_TRAINED]
    means = {key: float(np.mean([row[key] for row in never])) for key in ("R@1", "encoder", "zero_shot")}
    return {"never_trained_mean": means, "rows": rows}


def added_later(
    bench: Bench, name: str, student: str, teacher: str, n: str = "all", seeds: int = 3, **options: Any
) -> dict:
    """Documents that come after a distillation."""
    data = bench.data(name)
    held = set((Path(bench.args.data) / name / "held_docs.txt").read_text().split())
    zero = Rabtriever(bench.model(student))
    runs = []
    for seed in range(seeds):
        row: dict[str, Any] = {}
        for kind, without in (("all known", set()), ("held out", held)):
            train = unlabelled(data, None if n == "all" else int(n), without)
            retriever, about = distil(bench, train, student, teacher, seed=seed, teacher_calls=0, **options)
            row[kind] = {
                split: compare(hits(retriever, data, split), hits(zero, data, split))
                for split in ("test", "test_unseen")
            }
            row[kind]["fusion"] = about["fusion"]
        runs.append(row)
    return {"runs": runs}


WHAT = {
    "none": no_labels,
    "labels": labels,
    "fine-tuned": fine_tuned,
    "never": never_worse,
    "shipped": shipped,
    "later": added_later,
}


def main() -> None:
    """Runs jobs that have no result yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "jobs", nargs="+", help="<what>/<set>/<student>[/<teacher>[/<requests>[/<calls>]]][?option=value&...]"
    )
    parser.add_argument("--data", required=True)
    for name in ("gemma", "mpnet", "llm", "states"):
        parser.add_argument(f"--{name}")
    bench = Bench(parser.parse_args())
    RESULTS.mkdir(parents=True, exist_ok=True)
    for job in bench.args.jobs:
        path = RESULTS / (job.replace("/", "_").replace("?", "_") + ".json")
        if path.exists():
            continue
        what, *parts = job.partition("?")[0].split("/")
        options = dict(pair.split("=") for pair in job.partition("?")[2].split("&") if pair)
        values = {key: json.loads(value) if value[0] in "0123456789.-tf" else value for key, value in options.items()}
        result = WHAT[what](bench, *parts, **values)
        path.write_text(json.dumps({"job": job, **result, "machine": machine()}, indent=1, default=float) + "\n")
        shown = result.get("mean", result.get("never_trained_mean"))
        print(job, shown, flush=True)


if __name__ == "__main__":
    main()
