import json

import numpy as np
import pytest

from rabtriever.data import Document
from rabtriever.errors import InputError
from rabtriever.index import Index
from rabtriever.index import batches as module
from rabtriever.index.view import View
from rabtriever.retriever import Rabtriever

DOCUMENTS = [
    Document("a", "find the weather", "Weather", {"year": 2001, "kind": "tool"}),
    Document("b'", "a recipe for bread", "Cook", {"year": 2005, "kind": "tool"}),
    Document("c", "turn the lamp light", "", {"year": 2010}),
]


@pytest.fixture
def index(retriever, tmp_path):
    return Index.build(tmp_path / "index", retriever, DOCUMENTS)


def test_search_gives_the_retrievers_log_odds(index, retriever):
    hits = index.search(["rain", "cook bread"], k=10)
    documents = retriever.encode_document([document.content for document in DOCUMENTS])
    expected = retriever.similarity(retriever.encode_query(["rain", "cook bread"]), documents)
    for row, found in zip(expected, hits, strict=True):
        assert [hit.id for hit in found] == [DOCUMENTS[i].id for i in np.argsort(-row)]
        np.testing.assert_allclose([hit.log_odds for hit in found], sorted(row, reverse=True), atol=1e-4)
        for hit in found:
            assert hit.probability == pytest.approx(1 / (1 + np.exp(-hit.log_odds)))
    by_id = {document.id: document for document in DOCUMENTS}
    assert all(hit.text == by_id[hit.id].content and hit.metadata == by_id[hit.id].metadata for hit in hits[0])
    assert [hit.id for hit in index.search("rain", k=1)[0]] == [hits[0][0].id]


def test_adds_and_deletes_are_seen_at_once_by_all_readers(index, retriever, tmp_path):
    reader = Index.open(tmp_path / "index", retriever)
    assert len(reader.search("rain")[0]) == 3
    index.add(Document(f"new{i}", f"music {i}") for i in range(5))
    index.delete(["b'", "new0"])
    ids = {"a", "c", "new1", "new2", "new3", "new4"}
    assert {hit.id for hit in index.search("rain")[0]} == {hit.id for hit in reader.search("rain")[0]} == ids
    assert len(index) == len(reader) == 6


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("id = 'a'", {"a"}),
        ("title LIKE 'C%' OR text LIKE '%lamp%'", {"b'", "c"}),
        ("json_get_int(metadata, 'year') > 2001", {"b'", "c"}),
        ("json_get_string(metadata, 'kind') = 'tool'", {"a", "b'"}),
        ("id = 'nobody'", set()),
    ],
)
def test_where_filters(index, where, ids):
    assert {hit.id for hit in index.search("rain", where=where)[0]} == ids


def test_rerank_asks_the_teacher(index, retriever):
    plain = index.search("rain", k=3)[0]
    hits = index.search("rain", k=3, rerank=2)[0]
    judged = retriever.teacher.log_odds(["rain"], [hit.text for hit in plain[:2]])[0]
    assert [hit.log_odds for hit in hits[:2]] == pytest.approx(sorted(judged, reverse=True), abs=1e-4)
    assert hits[2] == plain[2]
    assert len(index.search("rain", k=1, rerank=3)[0]) == 1


def test_an_empty_index_has_no_hits(retriever, tmp_path):
    assert Index.create(tmp_path / "index", retriever).search(["rain", "cook"], rerank=2) == [[], []]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda index: index.search("rain", k=0), "k 0"),
        (lambda index: index.search("rain", rerank=0), "rerank 0"),
        (lambda index: index.search(" "), "has no tokens"),
        (lambda index: index.search("rain", where="id ="), "where 'id ='.*sql parser"),
        (lambda index: index.search("rain", where="colour = 3"), "No field named colour"),
        (lambda index: index.delete(["a", "nobody"]), "no document 'nobody'"),
        (lambda index: index.delete("a"), "wrap it in a list"),
    ],
)
def test_bad_input_is_named(index, call, message):
    with pytest.raises(InputError, match=message):
        call(index)
    assert len(index) == 3


@pytest.mark.parametrize(
    "bad", [Document("a", "again"), Document("new0", "twice"), Document("", "none"), Document("x", " ")]
)
def test_an_add_that_fails_adds_nothing(index, monkeypatch, bad):
    monkeypatch.setattr(module, "BATCH", 2)
    with pytest.raises(InputError):
        index.add([*(Document(f"new{i}", "music") for i in range(4)), bad])
    assert len(index) == 3
    index.add([Document("new0", "music")])
    assert len(index) == 4


def test_nothing_is_left_of_a_build_that_failed(retriever, tmp_path):
    with pytest.raises(InputError, match="ids must differ"):
        Index.build(tmp_path / "index", retriever, DOCUMENTS * 2)
    with pytest.raises(InputError, match="no documents"):
        Index.build(tmp_path / "index", retriever, [])
    assert list(tmp_path.iterdir()) == []


def test_a_search_reads_one_version_whatever_is_written_meanwhile(index, monkeypatch):
    search = View.search

    def slow(*args):
        monkeypatch.undo()
        other = Index.open(index.store.uri, index.retriever)
        other.delete(["a"])
        other.upsert([Document("c", "something else")])
        other.optimize()
        return search(*args)

    monkeypatch.setattr(View, "search", slow)
    found = {hit.id: hit.text for hit in index.search("rain", k=3)[0]}
    assert found == {document.id: document.content for document in DOCUMENTS}
    assert {hit.id: hit.text for hit in index.search("rain", k=3)[0]} == {
        "b'": "Cook: a recipe for bread",
        "c": "something else",
    }


def test_what_is_no_index_is_named(index, retriever, llm_folder, tmp_path):
    with pytest.raises(InputError, match="exists already"):
        Index.create(tmp_path / "index", retriever)
    with pytest.raises(InputError, match="no such index"):
        Index.open(tmp_path / "nowhere", retriever)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not an index"):
        Index.open(tmp_path / "empty", retriever)
    with pytest.raises(InputError, match="does not tell where its model lies"):
        Index.open(tmp_path / "index")


def test_another_models_index_is_refused(index, retriever, tmp_path):
    other = Rabtriever(retriever.teacher, retriever.predictor, pooling="last")
    with pytest.raises(InputError, match="made by model"):
        Index.open(tmp_path / "index", other)


def test_an_index_finds_its_model(retriever, tmp_path):
    retriever.save_pretrained(tmp_path / "model")
    Index.build(tmp_path / "index", retriever, DOCUMENTS)
    opened = Index.open(tmp_path / "index")
    assert opened.retriever.fingerprint == retriever.fingerprint
    config = json.loads((tmp_path / "model" / "rabtriever.json").read_text())
    (tmp_path / "model" / "rabtriever.json").write_text(json.dumps({**config, "pooling": "last"}))
    with pytest.raises(InputError, match="made by model"):
        Index.open(tmp_path / "index")


def test_bm25_ranks_by_shared_words_and_tells_the_retrievers_log_odds(index):
    everything = {hit.id: hit.log_odds for hit in index.search("lamp weather", k=100)[0]}
    hits = index.search("lamp weather", k=100, mode="bm25")[0]
    assert {hit.id for hit in hits} == {"a", "c"}
    assert all(abs(hit.log_odds - everything[hit.id]) < 1e-5 for hit in hits)
    assert index.search("lamp", k=3, mode="bm25", where="id <> 'c'") == [[]]


def test_documents_are_got_by_id_and_reranked_hits_say_so(index):
    assert [document.id for document in index.get(["nowhere", "c", "b'"])] == ["b'", "c"]
    assert index.get([]) == []
    hits = index.search("rain", k=3, rerank=2)[0]
    assert [hit.reranked for hit in hits] == [True, True, False]
