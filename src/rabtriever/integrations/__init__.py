"""Retrievers, rerankers and indexes in other libraries' interfaces: one file a library, imported only when used."""
