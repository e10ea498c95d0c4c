import asyncio
import json

import pytest
from integrations.conftest import QUERY, TEXTS

pytest.importorskip("haystack")
from haystack import Document, Pipeline

from rabtriever import Index, InputError, NotFoundError, load_reranker
from rabtriever.integrations.haystack import RabtrieverRanker, RabtrieverRetriever

LOADING = {"device": "cpu", "backend": "torch", "dtype": "float32"}


@pytest.mark.parametrize("options", [{}, {"where": "json_get_bool(metadata, 'even')"}, {"rerank": 4}], ids=str)
def test_a_retriever_returns_what_a_search_does(index, options):
    retriever, hits = RabtrieverRetriever(index, top_k=6, **options), index.search(QUERY, 6, **options)
    found = retriever.run(QUERY)["documents"]
    assert [(one.id, one.content, one.score) for one in found] == [(h.id, h.text, h.probability) for h in hits]
    assert [one.meta for one in found] == [{**hit.metadata, "log_odds": hit.log_odds} for hit in hits]
    assert asyncio.run(retriever.run_async(QUERY))["documents"] == found
    where = "id <> 'd3'"
    overridden = retriever.run(QUERY, top_k=2, where=where)["documents"]
    assert [one.id for one in overridden] == [h.id for h in index.search(QUERY, 2, **options | {"where": where})]


@pytest.mark.parametrize("kind", ["reranker", "cross-encoder", "retriever"])
@pytest.mark.parametrize("top_k", [None, 3])
def test_a_ranker_ranks_as_the_model(tiny_retriever, saved_retriever, cross_encoder_folder, kind, top_k):
    if kind == "cross-encoder":
        ranker = RabtrieverRanker(cross_encoder_folder, top_k=top_k, loading={"device": "cpu"})
        expected = load_reranker(cross_encoder_folder, device="cpu")
    else:
        ranker = RabtrieverRanker(saved_retriever, kind, top_k, LOADING)
        expected = tiny_retriever if kind == "retriever" else tiny_retriever.reranker
    documents = [Document(content=text, meta={"n": i}) for i, text in enumerate(TEXTS[:12])]
    found = ranker.run(QUERY, documents)["documents"]
    rows = [(row["corpus_id"], row["score"]) for row in expected.rank(QUERY, TEXTS[:12], top_k)]
    assert [(one.meta["n"], one.score) for one in found] == rows
    assert asyncio.run(ranker.run_async(QUERY, documents))["documents"] == found
    assert documents[0].score is None and ranker.run(QUERY, [])["documents"] == []


def test_a_pipeline_saved_and_loaded_answers_the_same(index, saved_retriever, tmp_path):
    pipeline = Pipeline()
    pipeline.add_component("retriever", RabtrieverRetriever(index, top_k=8, where="id <> 'd3'", rerank=2))
    pipeline.add_component("ranker", RabtrieverRanker(saved_retriever, top_k=3, loading=LOADING))
    pipeline.connect("retriever.documents", "ranker.documents")
    asked = {"retriever": {"query": QUERY}, "ranker": {"query": QUERY}}
    expected = pipeline.run(asked)["ranker"]["documents"]
    hits = index.search(QUERY, 8, where="id <> 'd3'", rerank=2)
    assert {one.id for one in expected} <= {hit.id for hit in hits} and len(expected) == 3

    with open(path := tmp_path / "pipeline.yaml", "w") as file:
        pipeline.dump(file)
    with open(path) as file:
        loaded = Pipeline.load(file, allowed_modules=["rabtriever"])
    assert loaded.to_dict() == pipeline.to_dict()
    found = loaded.run(asked)["ranker"]["documents"]
    # A float of another engine may differ in its last digits.
    assert [one.id for one in found] == [one.id for one in expected]
    assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=0.02)
    again = asyncio.run(loaded.run_async(asked))["ranker"]["documents"]
    assert [one.id for one in again] == [one.id for one in expected]


def test_what_is_wrong_is_told_before_anything_is_loaded(tmp_path):
    with pytest.raises(InputError, match="k 0"):
        RabtrieverRetriever("anywhere", top_k=0)
    with pytest.raises(InputError, match="kind 'cross'"):
        RabtrieverRanker(kind="cross")
    with pytest.raises(NotFoundError):
        RabtrieverRetriever(tmp_path / "no").run(QUERY)


def test_nothing_is_opened_before_it_warms_up(index, monkeypatch):
    monkeypatch.setattr(Index, "open", lambda *_: pytest.fail("opened"))
    for made in (RabtrieverRetriever(index.table.uri, 3, rerank=2), RabtrieverRanker("no model", "retriever", 3)):
        saved = made.to_dict()
        assert json.loads(json.dumps(saved)) == saved == type(made).from_dict(saved).to_dict()
    assert saved["init_parameters"]["model"] == "no model"
