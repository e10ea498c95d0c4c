"""Stored documents and how they are searched; needs neither torch nor transformers."""

from rabtriever.index.hits import Hit
from rabtriever.index.index import Index
from rabtriever.index.search import SearchOptions

__all__ = ["Hit", "Index", "SearchOptions"]
