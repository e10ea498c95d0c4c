"""Documents at rest and searched."""

from rabtriever.index.index import Hit, Index

__all__ = ["Hit", "Index"]
