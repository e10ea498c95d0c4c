"""Rationale retrieval: an LLM reranker's judgement at the cost of a vector lookup.

Names are imported when they are first used, so that ``import rabtriever`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rabtriever.data import Document, RetrievalData, load_data
    from rabtriever.errors import InputError
    from rabtriever.index import Hit, Index
    from rabtriever.llm.prompt import PromptTemplate
    from rabtriever.rerankers.generative import GenerativeReranker
    from rabtriever.retriever import Rabtriever

__version__ = "0.1.0"
__all__ = [
    "Document",
    "GenerativeReranker",
    "Hit",
    "Index",
    "InputError",
    "PromptTemplate",
    "Rabtriever",
    "RetrievalData",
    "load_data",
]

_HOMES = {
    "Document": "data",
    "GenerativeReranker": "reranker",
    "Hit": "index",
    "Index": "index",
    "InputError": "errors",
    "PromptTemplate": "llm.prompt",
    "Rabtriever": "retriever",
    "RetrievalData": "data",
    "load_data": "data",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'rabtriever' has no attribute {name!r}")
    return getattr(import_module(f"rabtriever.{_HOMES[name]}"), name)
