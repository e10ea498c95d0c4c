"""A teacher that counts what it is asked, and a cache of each test's own."""

import numpy as np
import pytest
from hypothesis import settings

from rabtriever.rerankers.generative import GenerativeReranker

settings.register_profile("no deadline", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("no deadline")


class CountingTeacher(GenerativeReranker):
    """Counts the pairs that are really scored and notes their texts."""

    def __init__(self, llm, calibration=None):
        super().__init__(llm, calibration)
        self.scored = []

    def score(self, queries, documents, pairs, **options):
        self.scored += [(queries[q], documents[d]) for q, d in np.asarray(pairs).reshape(-1, 2).tolist()]
        return super().score(queries, documents, pairs, **options)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def teacher(reranker):
    """The tiny reranker, counting."""
    return CountingTeacher(reranker.llm)
