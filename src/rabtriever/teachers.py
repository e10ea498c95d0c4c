"""Anything that can teach a retriever: what reads pairs, or another encoder."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypeIs, Unpack

from rabtriever.encoders.base import Encoder
from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.llm.loading import LoadOptions
from rabtriever.persistence.hub import ENCODERS
from rabtriever.rerankers.base import Reranker
from rabtriever.rerankers.generative import RerankerOptions
from rabtriever.rerankers.loading import load_reranker, reranker_kind

Teacher = Reranker | Encoder


def load_teacher(name: str, **options: Unpack[RerankerOptions]) -> Teacher:
    """Loads a teacher of whatever kind is there.

    Args:
        name: As in :func:`rabtriever.load_reranker`, or an encoder as in
            :meth:`rabtriever.encoders.sentence.SentenceEncoder.from_pretrained`.
        **options: Of several teachers together: what concerns the prompt reaches only an LLM that is used as it is, and
            what concerns its words a chat server.

    Raises:
        InputError: no model there.
    """
    loading: Any = {name: value for name, value in options.items() if name in LoadOptions.__annotations__}
    kind = teacher_kind(name, **loading)
    if kind == "encoder":
        return SentenceEncoder.from_pretrained(name, **{k: v for k, v in loading.items() if v is not None})
    return load_reranker(name, **(options if kind in ("llm", "remote") else loading))


def teacher_kind(name: str, **options: Unpack[LoadOptions]) -> str:
    """Returns what a name stands for, by settings alone: ``encoder``, or a kind of reranker."""
    return "encoder" if name in ENCODERS else reranker_kind(name, **options)


def is_encoder(teacher: Teacher) -> TypeIs[Encoder]:
    """Returns whether a teacher ranks all documents by their embeddings rather than reading pairs."""
    return hasattr(teacher, "encode_queries")
