"""Requests that an LLM wrote: what a student learns from them, against real ones and against fine-tuning.

Usage: python benchmarks/quality/generated.py --data FOLDER --teacher FOLDER --generator FILE --work FOLDER --out JSON

--data holds BEIR folders. Each row is saved when it is made, requests as they are written: the same command goes on.
The rival is trained by sentence-transformers' own trainer, which needs the package `datasets`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from measuring import paired_test
from record import machine

from rabtriever.data import RetrievalData, add_requests, load_data, training_queries
from rabtriever.encoders.loading import load_encoder
from rabtriever.llm.loading import load_llm
from rabtriever.retriever import Rabtriever
from rabtriever.training.config import DistillConfig
from rabtriever.training.distiller import Distiller
from rabtriever.training.generate import generate_requests
from rabtriever.training.generated_text import content_words, normalize
from rabtriever.training.teacher import load_teachers

TASKS = (("hwu64", 5), ("demo", 5), ("hwu64", 15))  # a data set, and how many requests are written for each document
LIMIT = 600
SEEDS = (0, 1, 2)
GAINS = (0.25, 0.5, 0.75, 1.0)
RIVALS = {"3 epochs": (3, 2e-5), "10 epochs": (10, 2e-5), "10 epochs, 5e-5": (10, 5e-5)}


class Task:
    """One corpus with its test queries and the requests that were written for it."""

    def __init__(self, name: str, n: int, args: argparse.Namespace) -> None:
        folder = Path(str(files("rabtriever") / "demo")) if name == "demo" else args.data / name
        self.full = load_data(folder)
        self.test = self.full.labelled_queries("test", LIMIT)
        self.corpus = RetrievalData(name, self.full.documents, {}, {})
        path = args.work / f"{name}-{n}.requests.jsonl"
        if not path.exists() and (fewer := sorted(args.work.glob(f"{name}-*.requests.jsonl"))):
            shutil.copy(fewer[0], path)  # more are added to them
        if args.generator:
            llm = load_llm(args.generator, backend=args.backend)
            generate_requests(list(self.full.documents.values()), llm, path, n, show_progress_bar=True)
        self.generated = add_requests(self.corpus, path)
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        self.pairs = [(row["text"], row["metadata"]["document"], row["metadata"]["style"]) for row in rows]

    def labelled(self) -> RetrievalData:
        """The generated requests, each with the document it was written for as its label."""
        qrels = {query: {pair[1]: 1} for query, pair in zip(self.generated.queries, self.pairs, strict=True)}
        return replace(self.generated, qrels={"train": qrels, "dev": {}})

    def real(self, seed: int) -> RetrievalData | None:
        """As many real requests without labels, if there are so many."""
        train = list(training_queries(self.full)) if "train" in self.full.qrels else []
        if len(train) < len(self.pairs):
            return None
        drawn = random.Random(seed).sample(train, len(self.pairs))
        return replace(self.corpus, queries={query: self.full.queries[query] for query in drawn})

    def hits(self, retriever: Rabtriever) -> np.ndarray:
        """R@1 of each test query."""
        documents = list(self.full.documents)
        z_d = retriever.encode_document([document.content for document in self.full.documents.values()])
        best = retriever.similarity(retriever.encode_query(list(self.test.values())), z_d).argmax(1)
        return np.array(
            [self.full.is_positive("test", query, documents[i]) for query, i in zip(self.test, best, strict=True)],
            float,
        )

    def describe(self, teacher: Any) -> dict[str, Any]:
        """Numbers of the requests themselves."""
        documents = self.full.documents
        texts = [text for text, _, _ in self.pairs]
        scores = teacher.encode_queries(texts) @ teacher.encode_documents([d.content for d in documents.values()]).T
        first = [list(documents)[i] for i in scores.argmax(1)]
        words = [word for text in texts for word in normalize(text).split()]
        bigrams = [
            pair for text in texts for pair in zip(normalize(text).split(), normalize(text).split()[1:], strict=False)
        ]
        shared = [bool(content_words(text) & content_words(documents[d].content)) for text, d, _ in self.pairs]
        styles = sorted({style for _, _, style in self.pairs})
        return {
            "requests": len(texts),
            "by_style": {style: sum(one == style for _, _, one in self.pairs) for style in styles},
            "words_per_request": round(len(words) / len(texts), 1),
            "distinct_bigrams": round(len(set(bigrams)) / len(bigrams), 3),
            "share_with_a_word_of_the_document": round(float(np.mean(shared)), 3),
            "teacher_puts_its_document_first": round(
                float(np.mean([a == d for a, (_, d, _) in zip(first, self.pairs, strict=True)])), 3
            ),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--generator", help="none: only the requests that are in --work")
    parser.add_argument("--backend", default="auto", help="of the generator")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["hwu64", "demo"])
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Any] = json.loads(args.out.read_text())["rows"] if args.out.is_file() else {}
    for name, n in TASKS:
        if name in args.sets:
            measure(Task(name, n, args), f"{name}, {n} a document", rows, args)


def measure(task: Task, where: str, rows: dict[str, Any], args: argparse.Namespace) -> None:
    """Makes what is missing of a task's rows, seed by seed."""
    encoder, teacher = load_encoder("minilm"), load_teachers([args.teacher])
    zero = task.hits(Rabtriever(encoder))

    def row(system: str, make: Callable[[], tuple[np.ndarray, dict[str, Any]]]) -> None:
        if f"{where}: {system}" in rows:
            return
        hits, notes = make()
        mean, error = float(hits.mean()), 1.96 * float(hits.std() / len(hits) ** 0.5)
        measured = {"R@1": round(mean, 4), "interval": [round(mean - error, 3), round(mean + error, 3)]}
        measured |= {"queries": len(hits), "p_to_zero_shot": round(paired_test(hits, zero), 4)} if len(hits) > 1 else {}
        rows[f"{where}: {system}"] = (measured if len(hits) else {}) | notes
        print(where, system, json.dumps(rows[f"{where}: {system}"]), file=sys.stderr, flush=True)
        record = {"command": "python benchmarks/quality/generated.py", **machine(), "rows": rows}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n")

    def distilled(data: RetrievalData, seed: int, taught: bool = True) -> tuple[np.ndarray, dict[str, Any]]:
        teachers = teacher if taught else load_teachers([])
        made = Distiller(encoder, teachers, DistillConfig(seed=seed)).train(data)
        by_gain = {}
        for gain in GAINS if made.predictor else ():
            fusion = replace(made.fusion, gain=gain)
            again = Rabtriever(encoder, made.predictor, fusion=fusion, trained_on=made.trained_on)
            by_gain[str(gain)] = round(float(task.hits(again).mean()), 4)
        return task.hits(made), {"gain": made.fusion.gain, "by_gain": by_gain}

    row("zero-shot", lambda: (zero, {}))
    for seed in SEEDS:
        row(f"distilled from generated, seed {seed}", lambda s=seed: distilled(task.generated, s))
        for rival, (epochs, rate) in RIVALS.items():
            row(f"fine-tuned on generated, {rival}, seed {seed}", lambda e=epochs, r=rate, s=seed: tuned(task, e, r, s))
        if real := task.real(seed):
            row(f"distilled from as many real, seed {seed}", lambda d=real, s=seed: distilled(d, s))
        row(f"distilled from generated and their labels, seed {seed}", lambda s=seed: distilled(task.labelled(), s))
        row(f"labels of generated alone, seed {seed}", lambda s=seed: distilled(task.labelled(), s, taught=False))
    row("requests", lambda: (np.empty(0), task.describe(teacher.encoders[0][0])))
    row("teacher", lambda: (task.hits(Rabtriever(teacher.encoders[0][0])), {}))


def tuned(task: Task, epochs: int, learning_rate: float, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """MiniLM fine-tuned on (request, document) pairs with in-batch negatives, a document once in a batch."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.training_args import BatchSamplers

    model = SentenceTransformer(load_encoder("minilm").model.folder.as_posix(), device="cpu")
    pairs = [(text, task.full.documents[document].content) for text, document, _ in task.pairs]
    columns = Dataset.from_dict({"anchor": [text for text, _ in pairs], "positive": [text for _, text in pairs]})
    with tempfile.TemporaryDirectory() as folder:
        options = SentenceTransformerTrainingArguments(
            folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=32,
            learning_rate=learning_rate,
            warmup_steps=0.1,
            batch_sampler=BatchSamplers.NO_DUPLICATES,
            seed=seed,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        )
        loss = MultipleNegativesRankingLoss(model)
        SentenceTransformerTrainer(model, options, train_dataset=columns, loss=loss).train()
        model.save(f"{folder}/model")
        return task.hits(Rabtriever.from_encoder(f"{folder}/model")), {}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
