"""What an adapter says when its library is missing."""

from rabtriever.extras import needs

__all__ = ["needs"]
