"""Rerankers behind HTTP: a source string, the protocols, and a client that pays for no pair twice."""
