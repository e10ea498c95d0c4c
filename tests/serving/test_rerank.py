import json

import numpy as np
import pytest

from rabtriever.rerankers.remote.reranker import RemoteReranker

TEXTS = ["turn the lamp light", "find the weather", "a recipe for bread", "play music", "find the weather"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
@pytest.mark.parametrize("model", ["retriever", "reranker"])
def test_documents_of_the_request_are_judged(standing, path, model):
    answer = standing.post(path, model=model, query="show the city", documents=TEXTS, return_documents=True).json()
    retriever = standing.index.retriever
    if model == "reranker":
        log_odds, calibration = retriever.reranker.log_odds(["show the city"], TEXTS)[0], retriever.reranker.calibration
    else:
        vectors = retriever.encode_query(["show the city"]), retriever.encode_document(TEXTS)
        log_odds, calibration = retriever.similarity(*vectors)[0], retriever.calibration
    order = np.argsort(-log_odds, kind="stable").tolist()
    assert sorted(row["index"] for row in answer["results"]) == list(range(5))
    for row in answer["results"]:
        assert row["log_odds"] == pytest.approx(log_odds[row["index"]], abs=1e-4)
        assert row["relevance_score"] == float(calibration.probability(np.float32(row["log_odds"])))
        assert row["document"] == {"text": TEXTS[row["index"]]}
    positions = [row["index"] for row in answer["results"]]
    assert positions.index(1) < positions.index(4)  # equal texts keep their order
    assert positions[0] in (order[0], order[1])
    assert answer["model"] == model and answer["usage"]["total_tokens"] > 0 and answer["id"]
    assert answer["meta"]["api_version"] == {"version": path[2]}


def test_shapes_of_documents(standing):
    def results(**body):
        return standing.post("/v1/rerank", query="lamp", **body).json()["results"]

    plain = results(documents=TEXTS)
    assert results(texts=TEXTS) == plain
    assert results(documents=[{"text": text, "more": 1} for text in TEXTS], instruct="x") == plain
    assert results(documents=TEXTS, top_n=0) == plain and results(documents=TEXTS, top_n=2) == plain[:2]
    fields = results(
        documents=[{"title": "Lamp", "body": "light"}], rank_fields=["title", "body"], return_documents=True
    )
    assert fields[0]["document"] == {"text": "title: Lamp\nbody: light"}
    assert results(documents=[{"n": 1}], return_documents=True)[0]["document"] == {"text": '{"n": 1}'}
    short = results(documents=["find the weather for a city"], max_tokens_per_doc=2, return_documents=True)[0]
    assert short["document"]["text"] == "find the weather for a city"
    assert short["log_odds"] == results(documents=["find the"])[0]["log_odds"]


def test_teis_shape(standing):
    cohere = standing.post("/v1/rerank", query="lamp", documents=TEXTS).json()["results"]
    tei = standing.post("/rerank", query="lamp", texts=TEXTS, truncate=True, truncation_direction="Right").json()
    assert [(row["index"], row["score"]) for row in tei] == [(row["index"], row["relevance_score"]) for row in cohere]
    raw = standing.post("/rerank", query="lamp", texts=TEXTS, raw_scores=True, return_text=True).json()
    assert [(row["score"], row["text"]) for row in raw] == [(row["log_odds"], TEXTS[row["index"]]) for row in cohere]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/rerank", {"query": "a"}, "body"),
        ("/v1/rerank", {"query": "a", "documents": []}, "documents"),
        ("/v1/rerank", {"query": "a", "documents": [3]}, "documents.0"),
        ("/v1/rerank", {"query": "a", "documents": ["b", " "]}, "documents.1"),
        ("/v1/rerank", {"query": "a", "documents": ["b"] * 1001}, "documents"),
        ("/v1/rerank", {"query": "a", "documents": ["b" * 100_001]}, "documents.0"),
        ("/v1/rerank", {"query": "a", "documents": [{"text": "b" * 100_001}]}, "body"),
        ("/v2/rerank", {"query": "a", "documents": ["b"], "model": "rerank-v3.5"}, "model"),
        ("/v2/rerank", {"query": " ", "documents": ["b"]}, "query"),
        ("/v2/rerank", {"query": "a", "documents": ["\x1c"], "max_tokens_per_doc": 5}, "documents.0"),
        ("/v2/rerank", {"query": "a", "documents": ["b"], "rank_fields": [0] * 100_000}, "rank_fields"),
    ],
)
def test_a_wrong_field_is_named(standing, path, body, param):
    answer = standing.post(path, **body)
    assert answer.status_code == 422 and answer.json()["error"]["param"] == param


def test_teis_errors_have_its_shape(standing):
    for body in ({"query": "a"}, {"query": "a", "texts": ["b"], "truncation_direction": "left"}):
        answer = standing.post("/rerank", **body)
        assert answer.status_code == 422 and answer.json()["error_type"] == "Validation"
        assert answer.json()["error"].split(":")[0] in ("texts", "truncation_direction")


@pytest.mark.parametrize("source", ["cohere+{}/v2/rerank#reranker", "jina+{}/v1/rerank#reranker", "tei+{}/rerank"])
def test_a_server_is_a_remote_teacher(standing, source, monkeypatch, tmp_path):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path))
    retriever = standing.index.retriever
    pairs = np.array([[1, 3], [0, 0], [0, 4], [1, 1]])
    queries = ["show the city", "play music"]
    remote = RemoteReranker.from_source(source.format(standing.url)).score(queries, TEXTS, pairs)
    if source.startswith("tei"):  # the retriever answers where no model is named
        expected = retriever.similarity(retriever.encode_query(queries), retriever.encode_document(TEXTS))[*pairs.T]
    else:
        expected = retriever.reranker.score(queries, TEXTS, pairs).log_odds
    np.testing.assert_allclose(remote.log_odds, expected, atol=1e-3)


HALF = "tyre \ud83d"


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
@pytest.mark.parametrize(
    "body",
    [
        {"documents": [HALF]},
        {"documents": [{"text": HALF}]},
        {"documents": [{"title": HALF}]},
        {"documents": [{HALF: 1}]},
        {"documents": [{"a": {"b": [HALF]}}]},
        {"documents": [{"title": HALF}], "rank_fields": ["title"]},
        {"documents": [{"text": "x"}], "rank_fields": [HALF]},
        {"documents": [{"title": "b" * 100_001}]},
    ],
)
def test_half_an_emoji_in_an_object_is_the_clients_fault(standing, path, body):
    content = json.dumps({"query": "a pump", **body})
    answer = standing.http.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text


def test_half_an_emoji_that_nobody_reads_is_no_matter(standing):
    content = json.dumps({"query": "a pump", "documents": [{"text": "tyre", "more": HALF}]})
    answer = standing.http.post("/v1/rerank", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 200


@pytest.mark.parametrize("depth", [300, 800, 900, 950, 980, 3000])
def test_an_object_of_any_depth_is_scored_or_told(standing, depth):
    content = '{"query": "a pump", "documents": [{"n": ' + "[" * depth + "]" * depth + "}]}"
    answer = standing.http.post("/v1/rerank", content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (200, 422), answer.text
