"""Rationale retrieval: an LLM reranker distilled into a retriever.

Names are imported when they are first used, so that ``import rabtriever`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import rabtriever.threads  # noqa: F401 - a forked child must be told about torch's threads

if TYPE_CHECKING:
    from rabtriever.data import Document, RetrievalData, concatenate, load_data
    from rabtriever.errors import (
        BusyError,
        ConflictError,
        CorruptIndexError,
        InputError,
        NotFoundError,
        RemoteError,
        StorageError,
    )
    from rabtriever.evaluation import evaluate
    from rabtriever.evaluation.judge import judge
    from rabtriever.index import Hit, Index
    from rabtriever.index.search import SearchOptions
    from rabtriever.llm.prompt import PromptTemplate
    from rabtriever.rerankers.cross_encoder import CrossEncoderReranker
    from rabtriever.rerankers.generative import GenerativeReranker
    from rabtriever.rerankers.loading import load_reranker
    from rabtriever.retriever import Rabtriever
    from rabtriever.teachers import load_teacher
    from rabtriever.training.config import DistillConfig, RerankerTrainingConfig
    from rabtriever.training.distill import distill
    from rabtriever.training.train_reranker import train_reranker
    from rabtriever.training.tune import tune

__version__ = "0.1.0"
__all__ = [
    "BusyError",
    "ConflictError",
    "CorruptIndexError",
    "CrossEncoderReranker",
    "DistillConfig",
    "Document",
    "GenerativeReranker",
    "Hit",
    "Index",
    "InputError",
    "NotFoundError",
    "PromptTemplate",
    "Rabtriever",
    "RemoteError",
    "RerankerTrainingConfig",
    "RetrievalData",
    "SearchOptions",
    "StorageError",
    "concatenate",
    "distill",
    "evaluate",
    "judge",
    "load_data",
    "load_reranker",
    "load_teacher",
    "train_reranker",
    "tune",
]

_MODULES = {
    "data": ("Document", "RetrievalData", "concatenate", "load_data"),
    "errors": (
        "BusyError",
        "ConflictError",
        "CorruptIndexError",
        "InputError",
        "NotFoundError",
        "RemoteError",
        "StorageError",
    ),
    "evaluation": ("evaluate",),
    "evaluation.judge": ("judge",),
    "index.hits": ("Hit",),
    "index.index": ("Index",),
    "index.search": ("SearchOptions",),
    "llm.prompt": ("PromptTemplate",),
    "rerankers.cross_encoder": ("CrossEncoderReranker",),
    "rerankers.generative": ("GenerativeReranker",),
    "rerankers.loading": ("load_reranker",),
    "retriever": ("Rabtriever",),
    "teachers": ("load_teacher",),
    "training.config": ("DistillConfig", "RerankerTrainingConfig"),
    "training.distill": ("distill",),
    "training.train_reranker": ("train_reranker",),
    "training.tune": ("tune",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

# Old names work until the next release.
_RENAMED = {
    "Distillation": "DistillConfig",
    "RerankerTraining": "RerankerTrainingConfig",
    "mixture": "concatenate",
}


def __getattr__(name: str) -> object:
    current = _RENAMED.get(name, name)
    if current not in _MODULE_OF:
        raise AttributeError(f"module 'rabtriever' has no attribute {name!r}")
    if current != name:
        from rabtriever.deprecation import warn_renamed

        warn_renamed(f"rabtriever.{name}", f"rabtriever.{current}")
    return getattr(import_module(f"rabtriever.{_MODULE_OF[current]}"), current)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
