"""The encoder that ships: MiniLM tuned on the labels of many corpora, as its difference to the original.

    python benchmarks/tools/encoder.py BEIR_FOLDERS WORK [--steps 800]

Writes ``WORK/encoder``, and what was measured to ``WORK/encoder.json``; an interrupted run goes on. At most 8 queries
of a document and 3,000 of a corpus are trained on. Not seen are the documents that ``held_docs.txt`` names, the corpora
that choose how much of the tuning is taken (alpha), and those that figures are given for as never trained on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rabtriever import DistillConfig, RetrievalData, concatenate, load_data
from rabtriever.encoders.difference import save_difference
from rabtriever.encoders.loading import load_encoder
from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.training.callbacks import JsonlLogger
from rabtriever.training.config import TuneEncoderConfig
from rabtriever.training.distiller import Distiller
from rabtriever.training.start import partial_folder
from rabtriever.training.teacher import Teacher
from rabtriever.training.tune_encoder import CHECKPOINT, tune_encoder
from rabtriever.training.tuned_model import TunedModel, save_interpolated

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import machine  # noqa: E402

# MIT, Apache-2.0 or CC BY, all of them.
TRAINED = "metatool clinc150 hwu64 banking77 tldr nl2bash alfred alfred_steps ultratool sealtools rlla_sft saycan_next"
CHOOSING = "sgd snips7"  # whose dev queries choose alpha
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
RANK = 16


def main() -> None:
    """Tunes, chooses and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=800)
    args = parser.parse_args()
    config = TuneEncoderConfig("lora", steps=args.steps, queries_per_step=40, lora_rank=RANK)
    original, tuned = load_encoder("minilm"), args.work / "tuned"
    started = time.time()
    data = concatenate([train_only(args.data / name) for name in TRAINED.split()], 3000, 0, 8)
    distiller = Distiller(original, Teacher(), DistillConfig(teacher_calls=0), [JsonlLogger()])
    distiller.prepare(data)
    tune_encoder(distiller, tuned, config)  # its weights, not its choice of alpha
    minutes = (time.time() - started) / 60
    model = TunedModel(original, config)
    model.load_checkpoint(partial_folder(tuned) / CHECKPOINT, torch.optim.AdamW(model.trained.values()))
    weights = model.merge()
    encoders, recalls = {}, {}
    for alpha in ALPHAS:
        folder = args.work / f"alpha-{alpha:g}"
        folder.mkdir(exist_ok=True)
        save_interpolated(original.model, weights, alpha, folder)
        encoders[alpha] = original.moved(folder)
        recalls[alpha] = {name: recall(encoders[alpha], load_data(args.data / name)) for name in CHOOSING.split()}
    best = max(ALPHAS, key=lambda alpha: float(np.mean(list(recalls[alpha].values()))))
    lost = save_difference(original.model, encoders[best].model, args.work / "encoder", RANK)
    about = {"alpha": best, "R@1 of dev": recalls, "lost": lost, "queries": len(data.qrels["train"])}
    about |= {"documents": len(data.documents), "steps": args.steps, "minutes": round(minutes), "machine": machine()}
    (args.work / "encoder.json").write_text(json.dumps(about, indent=1) + "\n")
    print(json.dumps(about))


def train_only(folder: Path) -> RetrievalData:
    """Returns a corpus with its train and dev labels, without the documents that must not be seen."""
    data, held = load_data(folder), folder / "held_docs.txt"
    gone = set(held.read_text().split("\n")) if held.is_file() else set()
    qrels = {
        split: {query: grades for query, grades in labels.items() if not gone & grades.keys()}
        for split, labels in data.qrels.items()
        if split in ("train", "dev")
    }
    used = {query for labels in qrels.values() for query in labels}
    documents = {key: document for key, document in data.documents.items() if key not in gone}
    return replace(
        data, documents=documents, queries={q: data.queries[q] for q in data.queries if q in used}, qrels=qrels
    )


def recall(encoder: SentenceEncoder, data: RetrievalData) -> float:
    """Returns R@1 on 600 dev queries."""
    positives, ids = data.positives("dev", 600), list(data.documents)
    documents = encoder.encode_documents([document.content for document in data.documents.values()])
    found = (encoder.encode_queries([data.queries[query] for query in positives]) @ documents.T).argmax(1)
    return float(np.mean([(ids[d] in right) / len(right) for d, right in zip(found, positives.values(), strict=True)]))


if __name__ == "__main__":
    main()
