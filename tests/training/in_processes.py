"""What tests/training/test_processes.py does in one process and in several: its own, and those of a launcher.

Usage: PYTHONPATH=src:tests accelerate launch ... in_processes.py SCENARIO LLM FOLDER
"""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import DistributedType, PartialState
from encoders.models import save_sentence_model
from tiny import TEMPLATE, make_reranker
from training.teaching import QUICK
from transformers import AutoTokenizer

from rabtriever import cli
from rabtriever.cli import distill as distill_command
from rabtriever.data import Document, RetrievalData
from rabtriever.encoders.llm import LLMEncoder
from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.errors import RemoteError
from rabtriever.kernels import why_no_llvm
from rabtriever.kernels.compile import compiled_folder
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.scoring.predictor import Predictor
from rabtriever.training import hard_negatives, processes, train_reranker, tuned_model
from rabtriever.training.config import DistillConfig, RerankerTrainingConfig, TuneEncoderConfig
from rabtriever.training.distill import distill
from rabtriever.training.reranker_trainer import RerankerTrainer
from rabtriever.training.teacher import Teacher

STEPS, FEW_STEPS, CHECKPOINT, CUT = 20, 6, 8, 12
TOPICS = ("weather", "flight", "recipe", "music", "lamp", "sponge", "hotel", "bread")
PLACES = ("city", "table", "wind")


def make_data() -> RetrievalData:
    """Eight documents, 24 queries."""
    documents = {topic: Document(topic, f"find the {topic} for me", topic) for topic in TOPICS}
    queries = {f"{topic}-{place}": f"please show {topic} {place}" for place in PLACES for topic in TOPICS}
    return RetrievalData("tiny", documents, queries, {"train": {query: {query.split("-")[0]: 1} for query in queries}})


class Recorder:
    """Notes the loss of each step or round."""

    def __init__(self):
        self.losses = []

    def on_log(self, step, metrics):
        if found := {name: value for name, value in metrics.items() if "loss" in name}:
            self.losses.append(found)


class CountingTeacher(GenerativeReranker):
    """Counts the pairs that this process scores; the last process may fail."""

    scored, fails = 0, False

    def score(self, queries, documents, pairs, **options):
        if self.fails and processes.rank() == processes.count() - 1:
            raise RemoteError("teacher: gone; ask later")
        self.scored += len(pairs)
        return super().score(queries, documents, pairs, **options)


def train(llm: str, out: Path, **options) -> dict:
    """Trains a reranker, logging each step; a student without dropout, which other processes would draw otherwise."""
    sizes = {"documents_per_step": 6, "queries_per_step": 9, "checkpoint_every": CHECKPOINT}
    config = {"steps": STEPS, "lora_depth": 1.0, "learning_rate": 3e-3, **sizes, **options}
    recorder, original = Recorder(), train_reranker._arguments

    def each_step(*args):
        arguments = original(*args)
        arguments.logging_steps = 1
        return arguments

    train_reranker._arguments, hard_negatives.STEPS = each_step, 20
    train_reranker.Predictor = lambda hidden_size, dropout: Predictor(hidden_size)
    try:
        made = train_reranker.train_reranker(
            make_data(),
            out,
            llm,
            prompt=TEMPLATE,
            config=RerankerTrainingConfig(**config),
            callbacks=[recorder],
            device="cpu",
            dtype="float32",
        )
    finally:
        train_reranker._arguments, train_reranker.Predictor = original, Predictor
    return {"losses": recorder.losses, "fingerprint": made.fingerprint}


def train_until_cut(llm: str, out: Path) -> None:
    """Trains until it is cut off, between two checkpoints."""
    original, steps = RerankerTrainer.compute_loss, []

    def cut(self, *args, **options):
        steps.append(1)
        if len(steps) > CUT:
            raise KeyboardInterrupt
        return original(self, *args, **options)

    RerankerTrainer.compute_loss = cut
    try:
        train(llm, out)
    except KeyboardInterrupt:
        processes.wait()
    finally:
        RerankerTrainer.compute_loss = original


def make_teacher(llm: str) -> CountingTeacher:
    return CountingTeacher(make_reranker(Path(llm)).llm)


def distil(llm: str, out: Path, teacher: CountingTeacher) -> dict:
    """Distils over the teacher's own LLM, with labels, so that further trainings leave documents out, too."""
    recorder, config = Recorder(), replace(QUICK, teacher_calls=120, steps=80, label_weight=0.5, dropout=0.2)
    encoder = LLMEncoder(teacher.llm)
    made = distill(make_data(), Teacher.of(rerankers=[teacher]), out, config, encoder=encoder, callbacks=[recorder])
    return {"losses": recorder.losses, "scored": teacher.scored, "gain": made.fusion.gain}


def tune(llm: str, folder: Path) -> dict:
    """Tunes an encoder without dropout, which other processes would draw otherwise, and distils over it."""
    tokenizer, dropout = AutoTokenizer.from_pretrained(llm), ("hidden_dropout_prob", "attention_probs_dropout_prob")
    config, model = dict.fromkeys(dropout, 0.0), folder / "sentence"
    processes.first(lambda: save_sentence_model(model, tokenizer, config=config))
    encoder, recorder = SentenceEncoder.from_pretrained(str(model), device="cpu", backend="torch"), Recorder()
    tuning = TuneEncoderConfig("lora", steps=20, queries_per_step=7, lora_rank=4, learning_rate=3e-3)
    options = {"encoder": encoder, "tune_encoder": tuning, "callbacks": [recorder]}
    usual, tuned_model.native_dtype = tuned_model.native_dtype, lambda _: torch.float32  # bfloat16 differs by 1e-3
    try:
        made = distill(make_data(), Teacher(), folder / "tuned", DistillConfig(rounds=2, steps=20), **options)
    finally:
        tuned_model.native_dtype = usual
    return {"losses": recorder.losses, "states": made.encode_query(["please show weather"]).tolist()}


def run_all(llm: str, folder: Path) -> dict:
    """Everything that one process and several must do alike."""
    found = {"listwise": train(llm, folder / "listwise")}
    found["dpo"] = train(llm, folder / "dpo", objective="dpo", steps=FEW_STEPS, hard_negative_share=0.0)
    found["student"] = train(llm, folder / "student", student_weight=1.0, steps=FEW_STEPS, hard_negative_share=0.0)
    found["tuned"] = tune(llm, folder)
    found["distill"] = distil(llm, folder / "distill", make_teacher(llm))
    return found


def run_cut(llm: str, folder: Path) -> dict:
    """A training that is cut off, to be resumed elsewhere, and its copy, which is resumed here."""
    train_until_cut(llm, folder / "cut-here-resumed-there")
    copied = folder / "cut-here-resumed-there.partial", folder / "resumed.partial"
    processes.first(lambda: shutil.copytree(*copied))
    return train(llm, folder / "resumed")


def shard_on_cpus() -> None:
    """Lets accelerate use FSDP without a GPU: it takes the CPU's processes for those of GPUs."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)


def main() -> None:
    scenario, llm, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(1)
    if why_no_llvm() is None:
        compiled_folder()  # the usual one, as in conftest.py
    os.environ["RABTRIEVER_CACHE"] = str(folder / "cache")
    if scenario == "fault":  # as the command line would
        teacher = make_teacher(llm)
        teacher.fails = True
        distill_command.run = lambda args: distil(llm, folder / "fault", teacher)
        sys.exit(cli.main(["distill", str(folder), "--out", str(folder / "fault")]))
    if scenario == "fsdp":
        shard_on_cpus()
        found = {"resumed": run_cut(llm, folder)}
    else:
        found = {**run_all(llm, folder), "resumed": run_cut(llm, folder)}
    (folder / f"found-{processes.rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
