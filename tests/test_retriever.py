import json

import numpy as np
import pytest
import torch

from rabtriever.errors import InputError
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.retriever import Rabtriever

QUERIES = ["rain", "please show me the weather for my city"]
DOCUMENTS = ["find the weather", "a recipe", "turn the lamp light"]


def test_the_latents_carry_the_unfolded_score(retriever):
    z_q, z_d = retriever.states("query", QUERIES), retriever.states("document", DOCUMENTS)
    unfolded = retriever.predictor(z_q[:, None], z_d[None]) @ retriever.teacher.w
    queries, documents = retriever.encode_query(QUERIES), retriever.encode_document(DOCUMENTS)
    assert queries.shape == (2, retriever.dim) and documents.shape == (3, retriever.dim)
    assert queries.dtype == documents.dtype == np.float32
    log_odds = retriever.similarity(queries, documents)
    np.testing.assert_allclose(log_odds, unfolded.detach().numpy(), atol=1e-3, rtol=1e-4)
    np.testing.assert_allclose(retriever.similarity(queries[0], documents[1]), log_odds[:1, 1:2], atol=1e-5)


def test_saved_and_loaded_is_the_same(retriever, tmp_path):
    retriever.save_pretrained(tmp_path / "model", {"data": "tiny"})
    loaded = Rabtriever.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert loaded.fingerprint == retriever.fingerprint and loaded.positive == retriever.positive
    np.testing.assert_allclose(loaded.encode_query(QUERIES), retriever.encode_query(QUERIES), atol=1e-5)
    teacher = GenerativeReranker.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert teacher.fingerprint == retriever.teacher.fingerprint
    assert json.loads((tmp_path / "model" / "rabtriever.json").read_text())["data"] == "tiny"
    with pytest.raises(InputError, match="exists already"):
        retriever.save_pretrained(tmp_path / "model")


def test_a_folder_that_is_no_retriever_is_named(retriever, tmp_path):
    with pytest.raises(InputError, match="no model there"):
        Rabtriever.from_pretrained(tmp_path)
    retriever.save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "rabtriever.json").read_text())
    weights = tmp_path / "model" / "predictor.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match="a broken retriever"):
        Rabtriever.from_pretrained(tmp_path / "model")
    weights.unlink()
    with pytest.raises(InputError, match="predictor.safetensors is missing"):
        Rabtriever.from_pretrained(tmp_path / "model")
    del config["predictor"]
    (tmp_path / "model" / "rabtriever.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="a reranker, not a retriever"):
        Rabtriever.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / "rabtriever.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="not a model configuration"):
        Rabtriever.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / "rabtriever.json").write_text("{")
    with pytest.raises(InputError, match="not a model configuration"):
        Rabtriever.from_pretrained(tmp_path / "model")


def test_a_query_is_read_once_as_long_as_it_is_remembered(retriever, monkeypatch):
    read = []
    original = Rabtriever.states
    monkeypatch.setattr(
        Rabtriever, "states", lambda self, side, texts, *rest: read.extend(texts) or original(self, side, texts, *rest)
    )
    retriever.known["query"].capacity = 2
    first = retriever.encode_query(["rain", "city", "rain"])
    assert read == ["rain", "city"] and first.shape == (3, retriever.dim)
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(retriever.encode_query(["city", "rain"]), first[[1, 0]])
    assert read == ["rain", "city"]
    retriever.encode_query(["bread"])  # "city" was used least lately
    retriever.encode_query(["rain"])
    assert read == ["rain", "city", "bread"]
    retriever.encode_query(["city"])
    assert read == ["rain", "city", "bread", "city"] and len(retriever.known["query"]) == 2
    retriever.known["query"].capacity = 0
    np.testing.assert_allclose(retriever.encode_query(["rain", "city", "rain"]), first, atol=1e-5)
    assert read[-3:] == ["rain", "city", "rain"]
    assert retriever.encode_query([]).shape == (0, retriever.dim)


def test_documents_are_remembered_if_asked_for(retriever, monkeypatch):
    read = []
    original = Rabtriever.states
    monkeypatch.setattr(
        Rabtriever, "states", lambda self, side, texts, *rest: read.extend(texts) or original(self, side, texts, *rest)
    )
    retriever.known["document"].capacity = 2
    first = retriever.encode_document(["rain", "city"])
    np.testing.assert_array_equal(retriever.encode_document(["city", "rain"]), first[[1, 0]])
    assert read == ["rain", "city"]
    assert not np.array_equal(retriever.encode_query(["rain"]), first[:1])  # the sides are kept apart
