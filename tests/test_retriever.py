import json

import numpy as np
import pytest
import torch
from tiny import make_retriever

from rabtriever.encoders.llm import LLMEncoder
from rabtriever.errors import InputError, TextError
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.retriever import MAX_CACHED_TEXT_LENGTH, Rabtriever

QUERIES = ["rain", "please show me the weather for my city"]
DOCUMENTS = ["find the weather", "a recipe", "turn the lamp light"]


@pytest.fixture
def encoded(monkeypatch):
    """Texts that reached the encoder, in order."""
    seen = []
    for name in ("encode_queries", "encode_documents"):
        original = getattr(LLMEncoder, name)
        monkeypatch.setattr(
            LLMEncoder,
            name,
            lambda self, texts, *rest, original=original: seen.extend(texts) or original(self, texts, *rest),
        )
    return seen


def test_the_latents_carry_the_unfolded_score(retriever):
    z_q = torch.from_numpy(retriever.encoder.encode_queries(QUERIES))
    z_d = torch.from_numpy(retriever.encoder.encode_documents(DOCUMENTS))
    unfolded = retriever.predictor(z_q[:, None], z_d[None]) @ retriever.reranker.llm.choice_direction
    queries, documents = retriever.encode_query(QUERIES), retriever.encode_document(DOCUMENTS)
    assert queries.shape == (2, retriever.dim) and documents.shape == (3, retriever.dim)
    assert queries.dtype == documents.dtype == np.float32
    log_odds = retriever.similarity(queries, documents)
    np.testing.assert_allclose(log_odds, unfolded.detach().numpy(), atol=1e-3, rtol=1e-4)
    np.testing.assert_allclose(retriever.similarity(queries[0], documents[1]), log_odds[:1, 1:2], atol=1e-5)


@pytest.mark.parametrize("side", ["encode_query", "encode_document"])
def test_one_text_gives_one_row_and_several_a_row_each(retriever, side):
    encode = getattr(retriever, side)
    rows = encode(QUERIES)
    assert rows.shape == (2, retriever.dim)
    for many in (tuple(QUERIES), (text for text in QUERIES), dict.fromkeys(QUERIES), np.array(QUERIES)):
        retriever.clear_caches()
        np.testing.assert_array_equal(encode(many), rows)
    one = encode(QUERIES[1])
    assert one.shape == (retriever.dim,)
    np.testing.assert_allclose(one, rows[1], atol=1e-5)
    assert encode([]).shape == (0, retriever.dim) and encode(iter(())).dtype == np.float32


@pytest.mark.parametrize("side", ["encode_query", "encode_document"])
def test_options_of_encoding_change_only_the_kind_of_result(retriever, side, capsys, monkeypatch):
    monkeypatch.setattr("rabtriever.progress.SECONDS", 0.0)  # a bar is shown at once
    encode, texts = getattr(retriever, side), [*QUERIES, *DOCUMENTS]
    rows = encode(texts)
    assert capsys.readouterr().err == ""
    retriever.clear_caches()
    np.testing.assert_allclose(encode(texts, batch_size=1, show_progress_bar=True), rows, atol=1e-5)
    assert "/5 [" in capsys.readouterr().err
    tensor = encode(texts, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32
    assert encode(texts[0], convert_to_tensor=True).shape == (retriever.dim,)
    np.testing.assert_allclose(tensor.numpy(), rows, atol=1e-5)


def test_batch_size_is_the_encoders(retriever, monkeypatch):
    sizes, engine = [], retriever.encoder.llm.backbone.engine
    original = type(engine).encode
    monkeypatch.setattr(
        type(engine), "encode", lambda self, ids, *rest: sizes.append(len(ids)) or original(self, ids, *rest)
    )
    retriever.encode_query(["rain", "city", "bread", "lamp", "light"], batch_size=2)
    assert sizes == [2, 2, 1]


def test_a_result_may_be_changed_without_harm_to_the_cache(retriever):
    first = retriever.encode_query(["rain"])
    expected = first.copy()
    first[:] = 0
    one = retriever.encode_query("rain")
    np.testing.assert_array_equal(one, expected[0])
    one[:] = 0
    np.testing.assert_array_equal(retriever.cached_query("rain"), expected[0])


def test_rank_agrees_with_similarity(retriever):
    log_odds = retriever.similarity(retriever.encode_query(QUERIES[1]), retriever.encode_document(DOCUMENTS))[0]
    ranking = retriever.rank(QUERIES[1], (text for text in DOCUMENTS))
    assert [hit["corpus_id"] for hit in ranking] == np.argsort(-log_odds).tolist()
    probabilities = retriever.calibration.probability(log_odds)
    assert [hit["score"] for hit in ranking] == pytest.approx(sorted(probabilities, reverse=True))
    assert retriever.rank(QUERIES[1], DOCUMENTS, top_k=1) == ranking[:1]
    assert retriever.rank(QUERIES[1], []) == []
    assert [hit["corpus_id"] for hit in retriever.rank("rain", ["a recipe"] * 3)] == [0, 1, 2]  # ties keep their order
    with pytest.raises(InputError, match="top_k 0"):
        retriever.rank("rain", DOCUMENTS, top_k=0)


def test_saved_and_loaded_is_the_same(retriever, tmp_path):
    retriever.save_pretrained(tmp_path / "model", {"data": "tiny"})
    assert retriever.name_or_path == str(tmp_path / "model")
    loaded = Rabtriever.from_pretrained(tmp_path / "model", dtype=torch.float32, device="cpu")
    assert loaded.fingerprint == retriever.fingerprint and loaded.layout == retriever.layout
    np.testing.assert_allclose(loaded.encode_query(QUERIES), retriever.encode_query(QUERIES), atol=1e-5)
    np.testing.assert_allclose(loaded.encode_document(DOCUMENTS), retriever.encode_document(DOCUMENTS), atol=1e-5)
    reranker = GenerativeReranker.from_pretrained(tmp_path / "model", dtype=torch.float32, device="cpu")
    assert reranker.fingerprint == retriever.reranker.fingerprint
    assert json.loads((tmp_path / "model" / "rabtriever.json").read_text())["data"] == "tiny"
    with pytest.raises(InputError, match="exists already"):
        retriever.save_pretrained(tmp_path / "model")
    other = make_retriever(retriever.reranker)
    other.predictor.output.bias.data[0] += 1
    assert Rabtriever(other.encoder, other.predictor).fingerprint != retriever.fingerprint


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
    (tmp_path / "model" / "rabtriever.json").write_text(json.dumps({**config, "encoder": {"pooling": "mean"}}))
    with pytest.raises(InputError, match="not a model configuration"):
        Rabtriever.from_pretrained(tmp_path / "model")
    del config["encoder"], config["predictor"]
    (tmp_path / "model" / "rabtriever.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="a reranker, not a retriever"):
        Rabtriever.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / "rabtriever.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="format 1, this release reads 3"):
        Rabtriever.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / "rabtriever.json").write_text("{")
    with pytest.raises(InputError, match="not a model configuration"):
        Rabtriever.from_pretrained(tmp_path / "model")


def test_a_cached_query_is_not_encoded_again(reranker, encoded):
    retriever = make_retriever(reranker, query_cache=2)
    assert retriever.cached_query("rain") is None
    first = retriever.encode_query(["rain", "city", "rain"])
    assert encoded == ["rain", "city"] and first.shape == (3, retriever.dim)
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(retriever.encode_query(["city", "rain"]), first[[1, 0]])
    assert encoded == ["rain", "city"]
    retriever.encode_query("bread")  # "city" is the least recently used
    retriever.encode_query("rain")
    assert encoded == ["rain", "city", "bread"] and retriever.cached_query("city") is None
    np.testing.assert_array_equal(retriever.cached_query("rain"), first[0])
    retriever.encode_query("city")
    assert encoded == ["rain", "city", "bread", "city"] and len(retriever._query_cache) == 2
    retriever.clear_caches()
    assert len(retriever._query_cache) == 0
    uncached = make_retriever(reranker, query_cache=0)
    for _ in range(2):
        np.testing.assert_allclose(uncached.encode_query(["rain", "city", "rain"]), first, atol=1e-5)
    assert encoded[4:] == ["rain", "city"] * 2 and uncached.cached_query("rain") is None


def test_documents_are_cached_on_request_and_apart_from_queries(reranker, encoded):
    retriever = make_retriever(reranker, document_cache=2)
    first = retriever.encode_document(["rain", "city"])
    np.testing.assert_array_equal(retriever.encode_document(["city", "rain"]), first[[1, 0]])
    assert encoded == ["rain", "city"]
    assert not np.array_equal(retriever.encode_query(["rain"]), first[:1])


@pytest.mark.filterwarnings("ignore:a query of")  # raised once for each prompt, which other tests use too
def test_a_very_long_query_is_not_cached(retriever):
    long = "rain " * MAX_CACHED_TEXT_LENGTH
    retriever.encode_query(long)
    assert retriever.cached_query(long) is None


@pytest.mark.parametrize("side", ["encode_query", "encode_document"])
def test_an_error_names_the_position_in_the_callers_list(retriever, side):
    encode, kind = getattr(retriever, side), side.removeprefix("encode_")
    encode(["rain", "city"])
    for bad, fault in ((" ", "has no tokens"), (None, "is not a text"), (["rain"], "is not a text")):
        with pytest.raises(TextError, match=f"{kind} 3: .*{fault}") as caught:
            encode(["rain", "city", "rain", bad, bad])
        assert caught.value.position == 3


def test_the_old_name_of_the_reranker(retriever):
    with pytest.warns(DeprecationWarning, match="Rabtriever.reranker"):
        assert retriever.teacher is retriever.reranker
