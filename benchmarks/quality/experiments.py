"""The kinds of jobs: train a reranker, train a bi-encoder, distil students, compare systems."""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality.ablations import make_distiller
from quality.biencoder import BiEncoder
from quality.biencoder import Settings as BiEncoderSettings
from quality.biencoder import train as train_biencoder
from quality.jobs import Job, folder
from quality.measuring import Bench, minilm_folder, paired_test
from record import machine

from rabtriever.data import RetrievalData, concatenate, load_data
from rabtriever.evaluation import read_run
from rabtriever.evaluation.measures import calibration_error
from rabtriever.llm.prompt import PromptTemplate
from rabtriever.persistence.folder import read_config, write_json
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.calibration import Calibration
from rabtriever.training.config import DistillConfig, RerankerTrainingConfig
from rabtriever.training.teacher_cache import TeacherCache
from rabtriever.training.train_reranker import train_reranker


def run(job: Job, args: argparse.Namespace) -> None:
    """Does one job and writes its record."""
    record = _Record(job, args)
    {"teacher": _teacher, "biencoder": _biencoder, "students": _students, "systems": _systems}[job.kind](
        job, args, record
    )
    record.write(finished=True)


class _Record:
    """A job's result file; an interrupted job goes on with its rows."""

    def __init__(self, job: Job, args: argparse.Namespace) -> None:
        self.path, self.started = job.result(args), time.monotonic()
        cuda = torch.cuda.is_available()
        self.head = {
            "job": job.name,
            "command": f"python benchmarks/quality/work.py --size {args.size} --jobs '{job.name}' --data D --work W",
            "size": args.size,
            "device": torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} threads",
            **machine(),
            "python": platform.python_version(),
            "options": job.options,
        }
        written = json.loads(self.path.read_text()) if self.path.is_file() else {}
        if _base(written.get("options", {})) != _base(json.loads(json.dumps(job.options))):
            written = {}  # another experiment of the same name
        self.rows: list[dict[str, Any]] = written.get("rows", [])
        self.before = written.get("seconds", 0)
        self.extra: dict[str, Any] = {}

    def write(self, finished: bool = False) -> None:
        seconds = round(self.before + time.monotonic() - self.started)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {**self.head, "seconds": seconds, "finished": finished, **self.extra, "rows": self.rows})


def _base(options: dict[str, Any]) -> dict[str, Any]:
    """Returns what all rows of a job have in common."""
    return {key: value for key, value in options.items() if key != "variants"}


def _load(args: argparse.Namespace, names: list[str], max_queries: int | None = None, seed: int = 0) -> RetrievalData:
    return concatenate([load_data(args.data / name) for name in names], max_queries, seed)


def _folder(args: argparse.Namespace, name: str) -> Path:
    """Returns the folder of a model made by another job, or of one that ships."""
    made = args.work / name
    return made if made.is_dir() else Path(__file__).parents[2] / "models" / name


def _teacher(job: Job, args: argparse.Namespace, record: _Record) -> None:
    o, out = job.options, args.work / job.name
    data = _load(args, o["tasks"], o.get("max_queries_per_dataset"), o.get("seed", 0))
    if not out.is_dir():
        prompt = PromptTemplate.from_dict(o["prompt"]) if "prompt" in o else None
        model = str(_folder(args, o["model"])) if "model" in o else "smollm2"
        train_reranker(data, out, model, prompt=prompt, config=RerankerTrainingConfig(**o["settings"]))
    record.extra["log"] = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
    cache = TeacherCache(GenerativeReranker.from_pretrained(out))
    record.rows = []
    for task, split, limit in o.get("evaluate", []):
        bench = Bench(_load(args, [task]), split, limit, 0)
        scores = bench.teacher(cache)
        settings = RerankerTrainingConfig(**o["settings"])
        objective = settings.objective + (" + student" if settings.student_weight else "")
        shape = {"task": task, "split": split, "system": "reranker", "objective": objective}
        row = {**shape, "teacher": job.name, "n_queries": len(bench.texts), **bench.quality(scores)}
        record.rows.append({**row, "absent_auroc": bench.absent(scores), "seed": settings.seed})
        record.write()


def _biencoder(job: Job, args: argparse.Namespace, record: _Record) -> None:
    o, out = job.options, args.work / job.name
    if not out.is_dir():
        train_biencoder(_load(args, [o["task"]]), out, BiEncoderSettings(**o["settings"]))
    record.extra["log"] = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()][::10]


def _students(job: Job, args: argparse.Namespace, record: _Record) -> None:
    o = job.options
    data = _load(args, o["tasks"], o.get("max_queries_per_dataset"), 0)
    teacher = GenerativeReranker.from_pretrained(_folder(args, o["teacher"]))
    cache = TeacherCache(teacher)
    evaluate = o.get("evaluate", [])
    benches = [Bench(_load(args, [task]), split, limit, 0) for task, split, limit, *_ in evaluate]
    scored = [bench.teacher(cache) if more else None for bench, (_, _, _, *more) in zip(benches, evaluate, strict=True)]
    done = {json.dumps(row["variant"], sort_keys=True) for row in record.rows}
    for variant in o["variants"]:
        if json.dumps(variant, sort_keys=True) in done:
            continue
        changes = {**o.get("settings", {}), **variant}
        system = changes.pop("system", None)
        policy, divergence = changes.pop("policy", "on"), changes.pop("divergence", None)
        pooling = changes.pop("pooling", "mean")
        config = DistillConfig(**changes).resolve(over_encoder=False)
        distiller = make_distiller(teacher, config, policy, divergence, pooling)
        started = time.monotonic()
        student = distiller.train(data)
        seconds = round(time.monotonic() - started)
        shape = {
            "objective": _objective(config, divergence),
            "predictor": config.predictor,
            "width": config.hidden_units,
            "policy": policy,
            "teacher_calls": distiller.cached_teacher.calls,
        }
        if system:
            out = args.work / job.name / folder(system)
            shutil.rmtree(out, ignore_errors=True)
            student.save_pretrained(
                out, {"data": data.name, "experiment": {**shape, "seed": config.seed}}, distiller.log
            )
        for bench, target in zip(benches, scored, strict=True):
            scores = bench.student(student)
            name = system or _name(config, policy)
            row = {"task": bench.data.name, "split": bench.split, "system": name, "variant": variant}
            row |= {**shape, "teacher": o["teacher"], "n_queries": len(bench.texts)}
            row |= {**bench.quality(scores), "absent_auroc": bench.absent(scores)}
            if target is not None:
                row |= bench.agreement(scores, target)
            record.rows.append({**row, "seed": config.seed, "seconds": seconds})
        record.write()


def _systems(job: Job, args: argparse.Namespace, record: _Record) -> None:
    o = job.options
    bench = Bench(_load(args, [o["task"]]), o["split"], o.get("limit"), 0)
    students = {name: Rabtriever.from_pretrained(_folder(args, made)) for name, made in o["students"].items()}
    scores = _scores(bench, o, args, students)
    record.rows = []
    for name, values in scores.items():
        row = {"task": o["task"], "split": o["split"], "system": name, "n_queries": len(bench.texts)}
        row |= {"candidates": _candidates(o)}
        row |= bench.quality(values)
        if name in students:
            row |= read_config(_folder(args, o["students"][name]))["experiment"]
            row |= _compared(bench, values, scores)
        if name in students or name == "reranker":
            row |= {"teacher": o["teacher"], "absent_auroc": bench.absent(values)}
            fitted = students[name].calibration if name in students else Calibration()
            row |= _calibration(bench, values, None if fitted == Calibration() else fitted)
        record.rows.append(row)


def _scores(
    bench: Bench, o: dict[str, Any], args: argparse.Namespace, students: dict[str, Rabtriever]
) -> dict[str, np.ndarray]:
    """Returns each system's scores (n_queries, n_documents) of the candidates, which the first stage chooses if any."""
    teacher = GenerativeReranker.from_pretrained(_folder(args, o["teacher"]))
    scores = {name: bench.student(student) for name, student in students.items()}
    scores["bm25s"] = bench.bm25s()
    first = o.get("first_stage", "")
    if first.endswith(".trec"):
        bench.restrict_to(read_run(args.data / o["task"] / first))
    elif first:
        bench.restrict(scores[first], 100, o.get("with_relevant", False))
    if minilm_folder():
        scores["minilm"] = bench.minilm()
    if "biencoder" in o:
        encoder = BiEncoder(_folder(args, o["biencoder"]), teacher.llm.template.query_tokens)
        scores["bi-encoder"] = encoder.scores(bench.texts, bench.contents).numpy()
    if o.get("reranker", True):
        scores["reranker"] = bench.teacher(TeacherCache(teacher))
    return scores


def _candidates(o: dict[str, Any]) -> str:
    """Describes what the systems rank."""
    if "first_stage" not in o:
        return "all documents"
    return ("the relevant ones and " if o.get("with_relevant") else "") + f"best 100 of {o['first_stage']}"


def _compared(bench: Bench, values: np.ndarray, scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """Compares a student with its teacher and with the bi-encoder."""
    row: dict[str, Any] = {}
    if "reranker" in scores:
        student, teacher = bench.quality(values), bench.quality(scores["reranker"])
        row |= bench.agreement(values, scores["reranker"])
        row |= {f"fidelity_{key}": round(student[key] / teacher[key], 4) for key in ("R@1", "nDCG@10") if teacher[key]}
    if "bi-encoder" in scores:
        hits, base = bench.hits(values), bench.hits(scores["bi-encoder"])
        row |= {"over_biencoder": round(float((hits - base).mean()), 4), "p": round(paired_test(hits, base), 5)}
    return row


def _calibration(bench: Bench, scores: np.ndarray, fitted: Calibration | None) -> dict[str, float]:
    """Returns the calibration error of the first hit and of the ten best, as the log-odds are and as fitted."""
    report = {}
    for name, calibration in {"raw": Calibration(), "fitted": fitted}.items():
        for label, depth in {"first": 1, "ten": 10}.items():
            if calibration is not None:
                log_odds, labels = (one.reshape(len(scores), -1) for one in bench.top(scores, min(10, scores.shape[1])))
                probabilities = calibration.list_probability(log_odds)[:, :depth]
                error = calibration_error(probabilities.ravel(), labels[:, :depth].ravel())
                report[f"ece_{label}_{name}"] = round(error, 4)
    return report


def _name(config: DistillConfig, policy: str) -> str:
    """Returns what the tables call such a student."""
    if not config.teacher_calls:
        return "labels-only"
    if policy != "on":
        return "off-policy"
    if not config.embedding_weight:
        return "logit-distil"
    return "retriever" if config.log_odds_weight + config.kl_weight else "regression"


def _objective(config: DistillConfig, divergence: str | None) -> str:
    if not config.teacher_calls:
        return "labels"
    parts = {
        "MSE": config.embedding_weight,
        "squares": 0.0 if divergence else config.log_odds_weight,
        f"KL ({divergence or 'reverse'})": config.kl_weight,
        "labels": config.label_weight,
    }
    return " + ".join(f"{weight:g} {name}" for name, weight in parts.items() if weight)
