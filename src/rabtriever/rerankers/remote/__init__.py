"""Rerankers behind HTTP: a source string, the protocols, and a client that pays for no pair twice."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rabtriever.rerankers.remote.options import RemoteOptions
    from rabtriever.rerankers.remote.reranker import RemoteReranker, notice
    from rabtriever.rerankers.remote.source import RemoteSource, is_remote

__all__ = ["RemoteOptions", "RemoteReranker", "RemoteSource", "is_remote", "notice"]

_MODULE_OF = {"RemoteOptions": "options", "RemoteReranker": "reranker", "notice": "reranker"}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Imports a name's module when it is needed: the command line's flags need the options alone."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF.get(name, 'source')}"), name)
