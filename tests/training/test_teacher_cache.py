import pytest
import torch

from rabtriever.errors import InputError
from rabtriever.retriever import encode
from rabtriever.training import cache as module
from rabtriever.training.teacher_cache import TeacherCache

QUERIES, DOCUMENTS = ["rain", "show music", "cook"], ["find the weather", "a recipe"]
PAIRS = torch.tensor([[0, 0], [2, 1], [1, 0], [0, 0]])


def test_cached_is_live_and_no_pair_is_scored_twice(reranker, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 2)
    live = reranker.context_embeddings(QUERIES, DOCUMENTS, PAIRS)
    first, calls = TeacherCache(reranker, tmp_path).context_embeddings(QUERIES, DOCUMENTS, PAIRS)
    assert calls == 3  # one pair stands there twice
    torch.testing.assert_close(first, live, atol=1e-5, rtol=1e-5)
    other = torch.tensor([[0, 1]])
    _, calls = TeacherCache(reranker, tmp_path).context_embeddings(QUERIES, DOCUMENTS, other)
    assert calls == 1
    known, calls = TeacherCache(reranker, tmp_path).context_embeddings(QUERIES, DOCUMENTS, PAIRS[[1, 0]])
    assert calls == 0
    torch.testing.assert_close(known, first[[1, 0]], atol=0, rtol=0)


def test_states_are_kept_by_side_and_pooling(reranker, tmp_path):
    cache = TeacherCache(reranker, tmp_path)
    for side, pooling in (("query", "mean"), ("query", "last"), ("document", "mean")):
        for _ in range(2):
            expected = encode(reranker, side, QUERIES, pooling)
            torch.testing.assert_close(cache.states(side, QUERIES, pooling), expected, atol=1e-5, rtol=1e-5)


def test_a_broken_cache_file_is_named(reranker, tmp_path):
    cache = TeacherCache(reranker, tmp_path)
    (cache.folder / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="bad.safetensors: not a readable cache file"):
        TeacherCache(reranker, tmp_path)
