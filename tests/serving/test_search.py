from typing import get_args

import pytest

from rabtriever.choices import MODES
from rabtriever.scoring.refusal import Refusal
from rabtriever.serving import batching
from rabtriever.serving.schemas.native import SearchRequest


def test_a_search_gives_what_the_index_gives(standing):
    answer = standing.post("/v1/search", query="bread for the table", k=3).json()
    expected = standing.index.search("bread for the table", k=3)
    assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in expected]
    for row, hit in zip(answer["hits"], expected, strict=True):
        assert row["text"] == hit.text
        assert row["probability"] == pytest.approx(hit.probability, abs=1e-6)
        assert row["log_odds"] == pytest.approx(hit.log_odds, abs=1e-4)
        assert row["metadata"] == hit.metadata and not row["reranked"]
    assert set(answer["timings"]) == {"queue", "encode", "scan"} and answer["truncated"] == 0


def test_several_queries_filters_modes_and_rerank(standing):
    answer = standing.post("/v1/search", queries=["lamp", "music"], k=2, rerank=2).json()
    expected = standing.index.search(["lamp", "music"], k=2, rerank=2)
    assert [[hit["id"] for hit in hits] for hits in answer["results"]] == [[h.id for h in hits] for hits in expected]
    assert all(hit["reranked"] for hits in answer["results"] for hit in hits) and answer["timings"]["rerank"] > 0
    for more in ({"mode": "exact"}, {"mode": "ann"}, {"mode": "bm25"}):
        hits = standing.post("/v1/search", query="lamp", **more).json()["hits"]
        assert [hit["id"] for hit in hits] == [hit.id for hit in standing.index.search("lamp", **more)]
    where = "json_get_int(metadata, 'year') > 2001 AND title <> ''"
    assert [hit["id"] for hit in standing.post("/v1/search", query="lamp", where=where).json()["hits"]] == [
        "it's/bread"
    ]


def test_mode_encoder_is_the_librarys_or_refused(standing, over_encoder):
    hits = over_encoder.post("/v1/search", query="lamp", mode="encoder").json()["hits"]
    assert [hit["id"] for hit in hits] == [hit.id for hit in over_encoder.index.search("lamp", mode="encoder")]
    answer = standing.post("/v1/search", query="lamp", mode="encoder")
    assert answer.status_code == 422 and answer.json()["error"]["param"] == "mode"
    modes = [server.http.get("/info").json()["model"]["modes"] for server in (standing, over_encoder)]
    assert modes == [[mode for mode in MODES if mode != "encoder"], list(MODES)]


def test_context_is_what_the_index_reads(standing):
    context = {"history": ["User: it is dark"], "used": ["it's/bread", "lamp"]}
    body = {"query": "the table", "k": 3, "rerank": 2}
    answer = standing.post("/v1/search", **body, **context).json()
    expected = standing.index.search("the table", k=3, rerank=2, **context)
    composed = {**body, "query": "User: it is dark\nthe table\nDone so far: Cook; turn the lamp light"}
    for hits in (answer["hits"], standing.post("/v1/search", **composed).json()["hits"]):
        assert [hit["id"] for hit in hits] == [hit.id for hit in expected]
        assert [hit["log_odds"] for hit in hits] == pytest.approx([hit.log_odds for hit in expected], abs=1e-4)
    several = {"queries": ["the table", "music"], "used": [["lamp"], []]}
    answer = standing.post("/v1/search", **several, history=[[], ["hello"]]).json()
    expected = [standing.index.search("the table", used=["lamp"]), standing.index.search("music", history=["hello"])]
    assert [[hit["id"] for hit in hits] for hits in answer["results"]] == [[h.id for h in hits] for hits in expected]
    for nothing in ([], None):
        assert standing.post("/v1/search", query="lamp", history=nothing, used=nothing).status_code == 200


def test_a_threshold_leaves_out_what_is_improbable(standing):
    hits = standing.post("/v1/search", query="lamp", k=10).json()["hits"]
    least = hits[1]["probability"]
    assert standing.post("/v1/search", query="lamp", k=10, threshold=least).json()["hits"] == [
        hit for hit in hits if hit["probability"] >= least
    ]


def test_where_nothing_fits_the_closest_is_named(standing, monkeypatch):
    queries = ["lamp", "music"]
    firsts = [hits[0] for hits in standing.index.search(queries)]
    limit = max(hit.log_odds for hit in firsts)
    monkeypatch.setattr(standing.index.retriever, "refusal", Refusal(500, {0.05: limit}))
    answer = standing.post("/v1/search", queries=queries, refuse=0.05).json()
    low = [hit.log_odds < limit for hit in firsts]
    assert low.count(True) == 1 and [hits == [] for hits in answer["results"]] == low
    named = [hit and hit["id"] for hit in answer["closest"]]
    assert named == [hit.id if refused else None for hit, refused in zip(firsts, low, strict=True)]
    assert "closest" not in standing.post("/v1/search", queries=queries).json()
    for query, hit, refused in zip(queries, firsts, low, strict=True):
        answer = standing.post("/v1/search", query=query, refuse=0.05).json()
        assert answer.get("closest", {}).get("id") == (hit.id if refused else None) and bool(answer["hits"]) != refused


def test_a_query_that_was_cut_is_told(live):
    budget = live.index.retriever.encoder.max_tokens("query")
    assert live.post("/v1/search", query="table " * (budget + 50)).json()["truncated"] == 1
    text = live.http.get("/metrics").text
    assert 'rabtriever_truncations_total{side="query"} 1.0' in text
    assert f'rabtriever_tokens_total{{side="query"}} {float(budget)}' in text


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "body"),
        ({"query": "a", "queries": ["b"]}, "body"),
        ({"query": ""}, "query"),
        ({"query": "   "}, "query"),
        ({"query": 5}, "query"),
        ({"queries": []}, "queries"),
        ({"queries": ["a", 1]}, "queries.1"),
        ({"queries": ["a"] * 65}, "queries"),
        ({"query": "a", "k": 0}, "k"),
        ({"query": "a", "k": "3"}, "k"),
        ({"query": "a", "k": 10**30}, "k"),
        ({"query": "a", "rerank": 100000}, "rerank"),
        ({"query": "a", "mode": "magic"}, "mode"),
        ({"query": "a", "threshold": 2}, "threshold"),
        ({"query": "a", "refuse": 1.0}, "refuse"),
        ({"query": "a", "refuse": 0.05}, "refuse"),  # nothing can be promised
        ({"query": "a", "unknown": 1}, "unknown"),
        ({"query": "a", "history": "b"}, "history"),
        ({"query": "a", "history": ["b", " "]}, "history.1"),
        ({"query": "a", "history": [["b"]]}, "body"),
        ({"query": "a", "history": ["b"] * 1001}, "history"),
        ({"query": "a", "history": ["b" * 100_001]}, "history.0"),
        ({"query": "a", "used": ["nobody"]}, "used"),
        ({"query": "a", "used": ["b" * 1001]}, "used.0"),
        ({"queries": ["a"], "used": ["lamp"]}, "body"),
        ({"queries": ["a"], "used": []}, "used"),
        ({"queries": ["a"], "history": [["b"], ["c"]]}, "history"),
        ({"query": "a", "where": "title ="}, "where"),
        ({"query": "a", "where": ""}, "where"),
        ({"query": "a", "where": "nothing = 1"}, "where"),
        ({"query": "a", "where": "latent IS NULL"}, "where"),
        ({"query": "a", "where": "id = '1'; DROP TABLE documents"}, "where"),
        ({"query": "a", "where": "id IN (SELECT id FROM documents)"}, "where"),
        ({"query": "a", "where": "repeat(id, 1000000000) = 'a'"}, "where"),
        ({"query": "a", "where": "lower(id, id, id) = 3"}, "where"),
        ({"query": "a", "where": "+".join("1" * 900) + " = 1"}, "where"),  # a planner's stack would not hold it
        ({"query": "a", "where": "length(id) / 0 = 1", "mode": "bm25"}, "where"),
        ({"query": "a", "where": "metadata = 'x'", "mode": "bm25"}, "where"),
        ({"query": "a" * 100_001}, "query"),
        ({"query": "a", **{f"x{i}": 1 for i in range(40)}}, "body"),
        ({"query": "a", "where": "(" * 40 + "id = 'a'" + ")" * 40}, "where"),
    ],
)
def test_a_wrong_field_is_named(standing, body, param):
    answer = standing.post("/v1/search", **body)
    assert answer.status_code == 422 and answer.json()["error"]["param"] == param
    assert answer.json()["message"] == answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"nul", b"\xff", b"[" * 5000, b'{"k": 1' + b"0" * 5000 + b"}", b'"\\ud800"']
)
def test_what_is_no_json_is_told(standing, body):
    answer = standing.http.post("/v1/search", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422 and answer.json()["error"]["param"] == "body"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_another_content_type_is_told(standing, kind):
    answer = standing.http.post("/v1/search", content=b'{"query": "a"}', headers={"content-type": kind} if kind else {})
    assert answer.status_code == 415 and answer.json()["message"] == "send application/json"


def test_half_a_character_is_told(standing):
    body = b'{"query": "\\ud800"}'
    answer = standing.http.post("/v1/search", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422 and answer.json()["error"]["param"] == "query"


def test_a_rerank_in_slices_is_the_librarys(standing, monkeypatch):
    queries, calls = ["lamp", "music", "find the city"], []
    expected = standing.index.search(queries, k=4, rerank=3)
    reranker = standing.index.retriever.reranker
    score = type(reranker).score
    monkeypatch.setattr(batching, "MAX_SLICE_TOKENS", 1)
    monkeypatch.setattr(type(reranker), "score", lambda self, *args: calls.append(len(args[2])) or score(self, *args))
    answer = standing.post("/v1/search", queries=queries, k=4, rerank=3).json()
    assert calls == [1] * 9  # each slice gives other requests their turn
    for hits, of_query in zip(answer["results"], expected, strict=True):
        assert [(hit["id"], hit["reranked"]) for hit in hits] == [(hit.id, hit.reranked) for hit in of_query]
        assert [hit["log_odds"] for hit in hits] == pytest.approx([hit.log_odds for hit in of_query], abs=1e-4)


def test_the_document_lists_the_librarys_modes():
    assert get_args(SearchRequest.model_fields["mode"].annotation) == MODES
