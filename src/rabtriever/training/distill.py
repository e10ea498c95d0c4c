"""Distilling a reranker into a retriever, from data and names to a saved model."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from typing_extensions import Unpack

from rabtriever.data import RetrievalData
from rabtriever.encoders.llm import LLMEncoder
from rabtriever.errors import StorageError
from rabtriever.llm.backbone import Pooling
from rabtriever.llm.loading import LoadOptions
from rabtriever.persistence.folder import CONFIG, read_config, require_absent
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.retriever import Rabtriever
from rabtriever.training.callbacks import JsonlLogger, TrainingCallback
from rabtriever.training.config import DistillConfig
from rabtriever.training.distiller import Distiller

__all__ = ["Distiller", "distill"]


def distill(
    data: RetrievalData,
    teacher: GenerativeReranker | str | Path,
    out: str | Path | None = None,
    config: DistillConfig | None = None,
    *,
    callbacks: Sequence[TrainingCallback] = (),
    **options: Unpack[LoadOptions],
) -> Rabtriever:
    """Distils a reranker into a retriever over the reranker's own LLM.

    The teacher's outputs are cached on disk, so repeating an interrupted call pays for nothing twice. Without qrels all
    queries are used and only the teacher teaches. Metrics are logged as lines of JSON to stderr.

    Args:
        data: Documents and queries; qrels if there are any.
        teacher: A reranker, which is not changed, or what :meth:`GenerativeReranker.from_pretrained` takes.
        out: Folder to save the retriever in; None saves nothing.
        config: Options; the defaults if None.
        callbacks: Receive the metrics of each round, too.
        **options: ``device``, ``dtype`` and ``backend`` of a teacher that is named.

    Returns:
        The retriever; its reranker is the teacher with the calibration that was fitted.

    Raises:
        InputError: ``out`` exists or cannot be made, there is no such teacher, or nothing to train on.
    """
    config = config or DistillConfig()
    if out is not None:
        _check_folder(Path(out).expanduser())
    if not isinstance(teacher, GenerativeReranker):
        teacher = GenerativeReranker.from_pretrained(teacher, **options)
    encoder = LLMEncoder(teacher.llm, cast(Pooling, config.pooling))
    distiller = Distiller(encoder, teacher, config, [JsonlLogger(), *callbacks])
    retriever = distiller.train(data)
    if out is not None:
        notes = {"data": data.name, "training": asdict(config), "teacher_calls": distiller.teacher_calls}
        retriever.save_pretrained(out, {**notes, **_teacher_notes(teacher)}, distiller.log)
    return retriever


def _check_folder(folder: Path) -> None:
    """Raises ConflictError if a folder exists, and StorageError if it could not be made."""
    require_absent(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder.parent).close()
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made ({error.strerror}); give another --out") from error


def _teacher_notes(teacher: GenerativeReranker) -> dict[str, Any]:
    """Returns how a teacher was trained, if the folder of its adapter says so."""
    adapter = teacher.llm.loaded.adapter
    if adapter is None or not (adapter.parent / CONFIG).is_file():
        return {}
    saved = read_config(adapter.parent)
    return {"teacher": {name: saved[name] for name in ("data", "training", "training_before") if name in saved}}
