"""Rerankers behind HTTP: a source string, the protocols, and a client that pays for no pair twice."""

from rabtriever.rerankers.remote.options import RemoteOptions
from rabtriever.rerankers.remote.reranker import RemoteReranker, notice
from rabtriever.rerankers.remote.source import RemoteSource, is_remote

__all__ = ["RemoteOptions", "RemoteReranker", "RemoteSource", "is_remote", "notice"]
