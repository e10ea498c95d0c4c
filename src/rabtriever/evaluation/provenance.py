"""What a figure depends on besides the code: data, models, what was cut, versions, hardware."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rabtriever import __version__
from rabtriever.data import RetrievalData
from rabtriever.hardware import describe_hardware
from rabtriever.persistence.folder import ENCODER

if TYPE_CHECKING:
    from rabtriever.encoders.base import Encoder
    from rabtriever.rerankers.base import Reranker
    from rabtriever.retriever import Rabtriever

PACKAGES = (
    "torch transformers tokenizers sentence-transformers numpy scipy numba lancedb pyarrow peft ir-measures".split()
)


def describe_data(data: RetrievalData, split: str) -> dict[str, Any]:
    """Returns a data set's name, sizes and digest.

    The digest is SHA-256 over one line of JSON (ASCII, sorted keys, no spaces) for each document in the order of the
    corpus, ``["document", id, title, text, metadata]``, each query, ``["query", id, text]``, and each judgement of each
    split, the splits by name, ``["label", split, query, document, grade]``.
    """
    digest = hashlib.sha256()
    for line in _lines(data):
        digest.update(json.dumps(line, sort_keys=True, separators=(",", ":"), default=str).encode() + b"\n")
    return {
        "name": data.name,
        "split": split,
        "documents": len(data.documents),
        "queries": len(data.queries),
        "labels": sum(map(len, data.qrels[split].values())),
        "sha256": digest.hexdigest(),
    }


def describe_command(argv: Sequence[str]) -> str:
    """Returns a command as it is typed, whole paths cut to their names: where a folder lies says nothing elsewhere."""

    def shorten(word: str) -> str:
        option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        return f"{option}{equals}{Path(value).name}" if os.path.isabs(value) else word

    return shlex.join(map(shorten, argv))


def describe_models(
    queries: Sequence[str], documents: Sequence[str], retriever: Rabtriever | None, reranker: Reranker | None
) -> dict[str, Any]:
    """Returns names, fingerprints and backends of what was evaluated, and how many texts each model cuts.

    Args:
        queries: Those that were asked.
        documents: All of the corpus.
        retriever: None if a reranker is evaluated alone.
        reranker: None if none was asked.
    """
    described: dict[str, Any] = {}
    if retriever:
        name = Path(retriever.name_or_path).name if retriever.name_or_path else None
        described["retriever"] = {"name": name, "fingerprint": retriever.fingerprint}
        described["encoder"] = {
            **_identity(retriever.encoder),
            "truncated": {
                "queries": _count_longer(retriever.encoder, "query", queries),
                "documents": _count_longer(retriever.encoder, "document", documents),
            },
        }
    if reranker:
        described["reranker"] = {**_identity(reranker), "truncated": _truncated_by(reranker, queries, documents)}
    return described


def describe_machine() -> dict[str, Any]:
    """Returns the hardware and the versions of what computes."""
    hardware = describe_hardware()
    instructions, gpus = hardware["instructions"], hardware["gpus"]
    return {
        "hardware": {
            **{name: hardware[name] for name in ("cpu", "cores", "memory_gb", "system")},
            "vnni": "avx512vnni" in instructions if instructions else None,
            "gpu": gpus[0] if gpus else None,
        },
        "versions": {
            "rabtriever": __version__,
            "python": platform.python_version(),
            **{name: found for name in PACKAGES if (found := _version(name))},
        },
    }


def _lines(data: RetrievalData) -> Iterable[list[Any]]:
    for one in data.documents.values():
        yield ["document", one.id, one.title, one.text, dict(one.metadata)]
    for query, text in data.queries.items():
        yield ["query", query, text]
    for split in sorted(data.qrels):
        for query, grades in data.qrels[split].items():
            for document, grade in grades.items():
                yield ["label", split, query, document, grade]


def _identity(model: Encoder | Reranker) -> dict[str, Any]:
    described = model.describe()
    name = str(described["name"])
    if os.path.isabs(name):
        path = Path(name)
        name = f"{path.parent.name}/{ENCODER}" if path.name == ENCODER else path.name
    return {**described, "name": name, "fingerprint": model.fingerprint, "numerics": model.numerics}


def _truncated_by(reranker: Reranker, queries: Sequence[str], documents: Sequence[str]) -> dict[str, int] | None:
    """Returns how many texts an LLM's prompt cuts; None of other rerankers, which do not say it."""
    if (llm := getattr(reranker, "llm", None)) is None:
        return None
    from rabtriever.encoders.llm import LLMEncoder

    reader = LLMEncoder(llm)  # counts with the same prompt
    return {
        "queries": _count_longer(reader, "query", queries),
        "documents": _count_longer(reader, "document", documents),
    }


def _count_longer(encoder: Encoder, kind: Any, texts: Sequence[str]) -> int:  # noqa: ANN401
    limit = encoder.max_tokens(kind)
    return sum(n > limit for n in encoder.count_tokens(kind, texts))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
