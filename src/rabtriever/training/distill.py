"""Distilling teachers into a retriever, from data and names to a saved model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from rabtriever.data import RetrievalData
from rabtriever.encoders.base import Encoder
from rabtriever.encoders.llm import LLMEncoder
from rabtriever.encoders.loading import load_encoder
from rabtriever.errors import InputError
from rabtriever.llm.loading import LoadOptions
from rabtriever.llm.sources import is_path
from rabtriever.persistence.folder import CONFIG, ENCODER, local_path, normalized_uri, read_config, require_absent
from rabtriever.rerankers.base import Reranker
from rabtriever.rerankers.generative import GenerativeReranker, RerankerOptions
from rabtriever.rerankers.remote.reranker import RemoteReranker, notice
from rabtriever.rerankers.store import ScoreStore
from rabtriever.retriever import Rabtriever
from rabtriever.training import processes
from rabtriever.training.callbacks import JsonlLogger, TrainingCallback
from rabtriever.training.config import DistillConfig, TuneEncoderConfig
from rabtriever.training.distiller import Distiller
from rabtriever.training.start import partial_folder
from rabtriever.training.teacher import Teacher, load_teachers
from rabtriever.training.tune_encoder import require_tunable, tune_encoder

__all__ = ["Distiller", "distill"]

OWN_LLM = "teacher"  # as an encoder's name: the teacher's LLM


def distill(
    data: RetrievalData,
    teacher: Teacher | str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    config: DistillConfig | None = None,
    *,
    encoder: Encoder | str | Path = "minilm",
    tune_encoder: TuneEncoderConfig | str | None = None,
    scores: str | Path | None = None,
    callbacks: Sequence[TrainingCallback] = (),
    **options: Unpack[RerankerOptions],
) -> Rabtriever:
    """Distils teachers into a retriever over an encoder.

    The teachers' outputs are cached on disk, so repeating an interrupted call pays for nothing twice. Without qrels all
    queries are used and only the teachers teach. Metrics are logged as lines of JSON to stderr. Processes that a
    launcher starts divide the teachers' reading and share one cache; the first one writes and logs.

    Args:
        data: Documents and queries; qrels if there are any.
        teacher: Who teaches, or the names of models (:func:`rabtriever.teachers.load_teacher`). Of several processes,
            one that loads models itself calls :func:`rabtriever.training.processes.start` before.
        out: Folder to save the retriever in, or its URI; None saves nothing.
        config: Options; the defaults if None.
        encoder: What the retriever stands on: an encoder, or its name as for
            :func:`rabtriever.encoders.loading.load_encoder`; ``teacher``: the teacher's own LLM, as in the paper.
        tune_encoder: ``full``, ``lora`` or options: tunes the encoder's own weights on the same targets first
            (:func:`rabtriever.training.tune_encoder.tune_encoder`); the predictor is trained over the result. Half of
            the teacher calls are then made before that. An interrupted tuning goes on with the same call.
        scores: Folder or URI of scores that `rabtriever judge --out` wrote; they are read like the cache, and what they
            lack is computed.
        callbacks: Receive the metrics of each round, too.
        **options: ``device``, ``dtype`` and ``backend`` of models that are named; ``preset``, ``task``,
            ``document_name`` and ``query_name`` of LLMs among the teachers that are used as they are.

    Returns:
        The retriever; its reranker is the teachers' first one with the calibration that was fitted.

    Raises:
        InputError: ``out`` exists or cannot be made, there is no such model, or nothing to train on; ``scores`` holds
            none of these teachers.
    """
    processes.start(options.get("device"))
    if out is not None:
        out = normalized_uri(out)
        require_absent(out)
    teacher, encoder = _load_models(teacher, encoder, options)
    store = None if scores is None else _open_scores(scores, teacher)
    distiller = Distiller(encoder, teacher, config, [JsonlLogger(), *callbacks], store)
    if tune_encoder is not None:
        return _distill_tuned(distiller, data, out, tune_encoder)
    retriever = distiller.train(data)
    if out is not None:
        folder = out
        processes.first(lambda: retriever.save_pretrained(folder, _notes(distiller, data), distiller.log))
    return retriever


def _load_models(
    teacher: Teacher | str | Path | Sequence[str | Path], encoder: Encoder | str | Path, options: RerankerOptions
) -> tuple[Teacher, Encoder]:
    """Returns the teacher and the encoder, those that are named by the options."""
    if not isinstance(teacher, Teacher):
        names = [teacher] if isinstance(teacher, str | Path) else list(teacher)
        teacher = load_teachers([str(name) for name in names], **options)
    if processes.rank() == 0 and any(isinstance(reranker, RemoteReranker) for reranker, _ in teacher.rerankers):
        notice()
    if not isinstance(encoder, str | Path):
        return teacher, encoder
    if encoder == OWN_LLM:
        return teacher, _own_encoder(teacher)
    loading: Any = {name: value for name, value in options.items() if name in LoadOptions.__annotations__}
    return teacher, load_encoder(encoder, **loading)


def _open_scores(place: str | Path, teacher: Teacher) -> ScoreStore:
    store = ScoreStore(place)
    if not any(store.folders(reranker.fingerprint) for reranker, _ in teacher.rerankers):
        raise InputError(
            f"scores {place}: none of these teachers; give what `rabtriever judge --out` wrote for one, of this prompt",
            param="scores",
        )
    return store


def _distill_tuned(
    first: Distiller, data: RetrievalData, out: str | Path | None, options: TuneEncoderConfig | str
) -> Rabtriever:
    """Tunes the encoder on what the teacher says of the first half of the calls, then distils over it."""
    if out is None:
        raise InputError("tune_encoder: what is tuned needs a folder; give out, too", param="out")
    require_tunable(first.encoder)
    tuning = options if isinstance(options, TuneEncoderConfig) else TuneEncoderConfig(options, seed=first.config.seed)
    config, calls = first.config, 0
    if first.teacher.rerankers:
        first.config = replace(config, teacher_calls=config.teacher_calls // 2)
        first.train(data)
        calls = first.cached_teacher.calls
    else:
        first.prepare(data)
    tuned = tune_encoder(first, out, tuning)
    rest = replace(config, teacher_calls=config.teacher_calls - calls)
    distiller = Distiller(tuned.encoder, first.teacher, rest, first.callbacks, first.scores)
    retriever = distiller.train(data, first.targets)
    notes = _notes(distiller, data)
    notes |= {"training": asdict(config), "teacher_calls": calls + distiller.cached_teacher.calls}
    source = first.encoder.describe()["name"]
    of = _name(first.encoder) if is_path(source) else source
    notes["encoder_tuning"] = {"of": of, **asdict(tuning), **tuned.to_config()}
    processes.first(lambda: retriever.save_pretrained(out, notes, distiller.log))
    if tuned.encoder.owned_folder:  # the retriever's own copy, since the other one goes
        retriever.encoder = tuned.encoder.moved(local_path(out) / ENCODER)
    processes.wait()
    processes.first(lambda: shutil.rmtree(partial_folder(out)))
    return retriever


def _notes(distiller: Distiller, data: RetrievalData) -> dict[str, Any]:
    """Returns what ``rabtriever.json`` says of a training."""
    calls = {"teacher_calls": distiller.cached_teacher.calls}
    return {"data": data.name, "training": asdict(distiller.config), **_teacher_notes(distiller.teacher), **calls}


def _own_encoder(teacher: Teacher) -> LLMEncoder:
    for reranker, _ in teacher.rerankers:
        if isinstance(reranker, GenerativeReranker):
            return LLMEncoder(reranker.llm)
    raise InputError("encoder 'teacher': no LLM among the teachers; name another encoder", param="encoder")


def _teacher_notes(teacher: Teacher) -> dict[str, Any]:
    """Returns who taught with which weights, and how a reranker of ours was trained, if its folder says so."""
    models: list[tuple[Encoder | Reranker, float]] = [*teacher.encoders, *teacher.rerankers]
    notes: dict[str, Any] = {"teachers": [{"name": _name(model), "weight": weight} for model, weight in models]}
    for reranker, _ in teacher.rerankers:
        folder = reranker.adapter.parent if reranker.adapter else None
        if folder and (folder / CONFIG).is_file():
            saved = read_config(folder)
            trained = {name: saved[name] for name in ("data", "training", "training_before") if name in saved}
            notes["teacher"] = trained
    return notes


def _name(model: Encoder | Reranker) -> str:
    return Path(model.describe()["name"]).name
