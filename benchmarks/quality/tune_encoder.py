"""Tuning an encoder without labels: zero-shot, a frozen and a tuned encoder, on its data set and on others.

    python benchmarks/record.py RESULT.json python benchmarks/quality/tune_encoder.py DATA/hwu64 \
        --teacher google/embeddinggemma-300m --work WORK \
        --unseen DATA/toolalpaca_eval DATA/restbench_spotify DATA/apibank

The requests are the train split's without their labels; an interrupted run goes on. ``WORK`` keeps the encoders.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from quality.measuring import paired_test

from rabtriever.data import RetrievalData, load_data
from rabtriever.encoders.loading import load_encoder
from rabtriever.retriever import Rabtriever
from rabtriever.training.callbacks import JsonlLogger
from rabtriever.training.config import TuneEncoderConfig
from rabtriever.training.distiller import Distiller
from rabtriever.training.teacher import load_teacher
from rabtriever.training.tune_encoder import ALPHAS, tune_encoder


def main() -> None:
    args = _parse()
    full = load_data(args.data)
    data = _unlabelled(full, args.requests)
    measured = {full.name: (full, "test"), **{one.name: (one, "test") for one in map(load_data, args.unseen)}}
    if "test_unseen" in full.qrels:
        measured[f"{full.name} (test_unseen)"] = full, "test_unseen"
    teacher, encoder = load_teacher([args.teacher], dtype=args.teacher_dtype), load_encoder(args.encoder)
    config = TuneEncoderConfig(args.method, steps=args.steps, learning_rate=args.learning_rate)
    distiller = Distiller(encoder, teacher, callbacks=[JsonlLogger()])

    started = time.time()
    frozen = distiller.train(data)
    seconds = {"teacher and frozen": time.time() - started}
    started = time.time()
    tuned = tune_encoder(distiller, args.work / args.method, config)
    seconds["tuning"] = time.time() - started
    systems = {"zero-shot": Rabtriever(encoder), "frozen + predictor": frozen}
    for alpha in ALPHAS:
        one = encoder.moved(args.work / f"{args.method}.partial" / f"encoder-{alpha:g}")
        systems[f"tuned {alpha:g}"] = Rabtriever(one)
        systems[f"tuned {alpha:g} + predictor"] = Distiller(one, teacher).train(data)
    hits = {
        system: {name: _hits(retriever, *of, args.limit) for name, of in measured.items()}
        for system, retriever in systems.items()
    }
    rows = {
        system: {
            name: {"R@1": round(float(found.mean()), 4), "p": round(paired_test(found, hits["zero-shot"][name]), 4)}
            for name, found in of_sets.items()
        }
        for system, of_sets in hits.items()
    }
    for row in rows.values():
        row["mean of unseen sets"] = {
            "R@1": round(float(np.mean([row[Path(one).name]["R@1"] for one in args.unseen])), 4)
        }
    result = {
        "data": full.name,
        "requests": len(data.queries),
        "encoder": encoder.describe()["name"],
        "teacher": Path(args.teacher).name,
        "tuning": {**asdict(config), **tuned.to_config()},
        "gains": {system: retriever.fusion.gain for system, retriever in systems.items()},
        "seconds": {name: round(value) for name, value in seconds.items()},
        "R@1": rows,
    }
    print(json.dumps(result))


def _unlabelled(data: RetrievalData, count: int) -> RetrievalData:
    """Returns so many train requests without labels."""
    train = list(data.labelled_queries("train"))
    random.Random(0).shuffle(train)
    return replace(data, queries={query: data.queries[query] for query in train[:count]}, qrels={})


def _hits(retriever: Rabtriever, data: RetrievalData, split: str, limit: int) -> np.ndarray:
    """Returns R@1 of each query of a sample: the share of its relevant documents that the first one is."""
    queries, ids = data.labelled_queries(split, limit, 0), list(data.documents)
    latents = retriever.encode_document([document.content for document in data.documents.values()])
    first = retriever.similarity(retriever.encode_query(list(queries.values())), latents).argmax(1)
    positives = data.positives(split, limit, 0)
    return np.array([(ids[i] in positives[q]) / len(positives[q]) for q, i in zip(queries, first, strict=True)])


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--teacher-dtype", default="bfloat16")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--unseen", nargs="+", default=[])
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--limit", type=int, default=600, help="queries of a set")
    parser.add_argument("--method", default="full")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--work", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
