"""Catalogues and folders that people have already, read as documents."""

from __future__ import annotations

from rabtriever.sources.reading import load_source, read_source

__all__ = ["load_source", "read_source"]
