"""Documents at rest and searched."""

from rabtriever.index.hits import Hit
from rabtriever.index.index import Index

__all__ = ["Hit", "Index"]
