"""Rationale retrieval: an LLM reranker distilled into a retriever.

Names are imported when they are first used, so that ``import rabtriever`` costs nothing.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rabtriever.data import Document, RetrievalData, concatenate, load_data
    from rabtriever.errors import (
        BusyError,
        ConflictError,
        CorruptIndexError,
        InputError,
        NotFoundError,
        StorageError,
    )
    from rabtriever.evaluation import evaluate
    from rabtriever.index import Hit, Index
    from rabtriever.index.search import SearchOptions
    from rabtriever.llm.prompt import PromptTemplate
    from rabtriever.rerankers.generative import GenerativeReranker, load_reranker
    from rabtriever.retriever import Rabtriever
    from rabtriever.training.config import DistillConfig, RerankerTrainingConfig
    from rabtriever.training.distill import distill
    from rabtriever.training.train_reranker import train_reranker

__version__ = "0.1.0"
__all__ = [
    "BusyError",
    "ConflictError",
    "CorruptIndexError",
    "DistillConfig",
    "Document",
    "GenerativeReranker",
    "Hit",
    "Index",
    "InputError",
    "NotFoundError",
    "PromptTemplate",
    "Rabtriever",
    "RerankerTrainingConfig",
    "RetrievalData",
    "SearchOptions",
    "StorageError",
    "concatenate",
    "distill",
    "evaluate",
    "load_data",
    "load_reranker",
    "train_reranker",
]

_MODULES = {
    "data": ("Document", "RetrievalData", "concatenate", "load_data"),
    "errors": ("BusyError", "ConflictError", "CorruptIndexError", "InputError", "NotFoundError", "StorageError"),
    "evaluation": ("evaluate",),
    "index.hits": ("Hit",),
    "index.index": ("Index",),
    "index.search": ("SearchOptions",),
    "llm.prompt": ("PromptTemplate",),
    "rerankers.generative": ("GenerativeReranker", "load_reranker"),
    "retriever": ("Rabtriever",),
    "training.config": ("DistillConfig", "RerankerTrainingConfig"),
    "training.distill": ("distill",),
    "training.train_reranker": ("train_reranker",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

# Until the next release: old names and modules still work, with a DeprecationWarning.
_RENAMED = {
    "Distillation": "DistillConfig",
    "RerankerTraining": "RerankerTrainingConfig",
    "folded_scores": "score_latents",
    "mixture": "concatenate",
}
_MOVED = {
    "calibration": "scoring.calibration",
    "fold": "scoring.fold",
    "predictor": "scoring.predictor",
    "reranker": "rerankers.generative",
    "training.distillation": "training.distill",
    "training.reranker": "training.train_reranker",
    "training.settings": "training.config",
}


def __getattr__(name: str) -> object:
    current = _RENAMED.get(name, name)
    if current not in _HOMES:
        raise AttributeError(f"module 'rabtriever' has no attribute {name!r}")
    if current != name:
        _warn(f"rabtriever.{name}", f"rabtriever.{current}")
    return getattr(import_module(f"rabtriever.{_HOMES[current]}"), current)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _MovedModule(ModuleType):
    """A module under its old name, which imports the new one when something of it is asked for."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        module, current = f"rabtriever.{_MOVED[self.__name__.partition('.')[2]]}", _RENAMED.get(name, name)
        _warn(f"{self.__name__}.{name}", f"{module}.{current}")
        return getattr(import_module(module), current)


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is now {new}; the old name goes with the next release", DeprecationWarning, stacklevel=3)


for _old in _MOVED:
    sys.modules[f"rabtriever.{_old}"] = _MovedModule(f"rabtriever.{_old}")
