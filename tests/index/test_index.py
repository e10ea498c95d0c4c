import gc
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rabtriever.data import Document
from rabtriever.encoders.llm import LLMEncoder
from rabtriever.errors import ConflictError, InputError, NotFoundError
from rabtriever.index import Index, SearchOptions, encoding
from rabtriever.index.view import View
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.calibration import Calibration
from rabtriever.scoring.layout import ScoreLayout

DOCUMENTS = [
    Document("a", "find the weather", "Weather", {"year": 2001, "kind": "tool"}),
    Document("b'", "a recipe for bread", "Cook", {"year": 2005, "kind": "tool"}),
    Document("c", "turn the lamp light", "", {"year": 2010}),
]


@pytest.fixture
def index(retriever, tmp_path):
    return Index.build(tmp_path / "index", retriever, DOCUMENTS)


def ids(hits):
    return [hit.id for hit in hits]


def test_search_gives_the_retrievers_log_odds(index, retriever):
    hits = index.search(["rain", "cook bread"], k=10)
    documents = retriever.encode_document([document.content for document in DOCUMENTS])
    expected = retriever.similarity(retriever.encode_query(["rain", "cook bread"]), documents)
    for row, found in zip(expected, hits, strict=True):
        assert ids(found) == [DOCUMENTS[i].id for i in np.argsort(-row)]
        np.testing.assert_allclose([hit.log_odds for hit in found], sorted(row, reverse=True), atol=1e-4)
        for hit in found:
            assert hit.probability == pytest.approx(1 / (1 + np.exp(-hit.log_odds)))
    by_id = {document.id: document for document in DOCUMENTS}
    assert all(hit.text == by_id[hit.id].content and hit.metadata == by_id[hit.id].metadata for hit in hits[0])


def test_one_query_gives_hits_and_several_give_a_list_for_each(index):
    both = index.search(["rain", "cook bread"], k=2)
    assert [index.search("rain", k=2), index.search("cook bread", k=2)] == both
    assert index.search((query for query in ("rain", "cook bread")), k=2) == both
    assert index.search("rain", k=1) == both[0][:1]


@pytest.mark.parametrize("options", [{}, {"mode": "ann"}, {"mode": "bm25"}, {"rerank": 2}, {"where": "id = 'a'"}])
def test_no_queries_give_no_hits(index, options):
    assert index.search([], **options) == []
    index._current.get().exact_up_to = 1
    assert index.search([], **options) == []


def test_retrieve_is_the_first_half_of_search(index, retriever):
    queries = ["rain", "cook bread"]
    options = SearchOptions(k=2)
    retrieved = index.retrieve(queries, retriever.encode_query(queries), options)
    assert [hits[:2] for hits in retrieved] == index.search(queries, k=2)
    with pytest.raises(InputError, match=r"query latents \(2, 17\): expected \(2, 18\)"):
        index.retrieve(queries, retriever.encode_query(queries)[:, :-1], options)


def test_adds_and_deletes_are_seen_at_once_by_all_readers(index, retriever, tmp_path):
    reader = Index.open(tmp_path / "index", retriever)
    assert len(reader.search("rain")) == 3
    index.add(Document(f"new{i}", f"music {i}") for i in range(5))
    index.delete(["b'", "new0"])
    expected = {"a", "c", "new1", "new2", "new3", "new4"}
    assert set(ids(index.search("rain"))) == set(ids(reader.search("rain"))) == expected
    assert len(index) == len(reader) == 6


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("id = 'a'", {"a"}),
        ("title LIKE 'C%' OR text LIKE '%lamp%'", {"b'", "c"}),
        ("json_get_int(metadata, 'year') > 2001", {"b'", "c"}),
        ("json_get_string(metadata, 'kind') = 'tool'", {"a", "b'"}),
        ("id = 'nobody'", set()),
    ],
)
def test_where_filters(index, where, expected):
    assert set(ids(index.search("rain", where=where))) == expected


def test_an_empty_index_has_no_hits(retriever, tmp_path):
    assert Index.create(tmp_path / "index", retriever).search(["rain", "cook"], rerank=2) == [[], []]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda index: index.search("rain", k=0), "k 0"),
        (lambda index: index.search("rain", rerank=0), "rerank 0"),
        (lambda index: index.search("rain", threshold=1.5), "threshold 1.5"),
        (lambda index: index.search("rain", mode="fast"), "mode 'fast': choose one of auto, exact"),
        (lambda index: index.search(["lamp", " "]), "^query ' ' has no tokens"),
        (lambda index: index.search("rain", where="id ="), "where 'id ='.*sql parser"),
        (lambda index: index.search("rain", where="colour = 3"), "No field named colour"),
        (lambda index: index.add([Document("x", "y"), Document("z", " ")]), "^add: document 'z': '' has no tokens"),
        (lambda index: index.delete("a"), "wrap it in a list"),
        (lambda index: index.add([Document("x", "y", metadata={"a": float("nan")})]), "metadata of document 'x'"),
        (lambda index: index.add([Document("x", "y", metadata={"a": {1, 2}})]), "metadata of document 'x'.*set"),
    ],
)
def test_bad_input_is_named(index, call, message):
    with pytest.raises(InputError, match=message):
        call(index)
    assert len(index) == 3


def test_a_delete_of_an_id_that_does_not_exist_removes_nothing(index):
    with pytest.raises(NotFoundError, match="no document 'nobody'"):
        index.delete(["a", "nobody"])
    index.delete([])
    assert len(index) == 3


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (Document("a", "again"), ConflictError),
        (Document("new0", "twice"), ConflictError),
        (Document("", "none"), InputError),
        (Document("x", " "), InputError),
    ],
)
def test_an_add_that_fails_adds_nothing(index, monkeypatch, bad, error):
    monkeypatch.setattr(encoding, "DOCUMENTS_PER_BATCH", 2)
    with pytest.raises(error):
        index.add([*(Document(f"new{i}", "music") for i in range(4)), bad])
    assert len(index) == 3
    index.add([Document("new0", "music")])
    assert len(index) == 4


def test_nothing_is_left_of_a_build_that_failed(retriever, tmp_path):
    with pytest.raises(ConflictError, match="ids must differ"):
        Index.build(tmp_path / "index", retriever, DOCUMENTS * 2)
    with pytest.raises(InputError, match="no documents"):
        Index.build(tmp_path / "index", retriever, [])
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_index_is_searched_like_another_and_goes_with_its_object(index, retriever, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    temporary = Index.build(None, retriever, DOCUMENTS)
    folder = Path(temporary.table.uri)
    assert folder.parent == tmp_path / "temporary" and list(folder.rglob("segment.json"))
    assert temporary.search("rain", k=3) == index.search("rain", k=3)
    temporary.add([Document("new", "music")])
    hits = temporary.search("rain")
    assert len(hits) == 4
    view = temporary._current.get()  # its segments are mapped from the files that go
    del temporary
    gc.collect()
    assert not folder.exists()
    assert len(view.search(retriever.encode_query(["rain"]), 4, "exact")[0].ordinals) == 4
    with pytest.raises(InputError, match="no documents"):
        Index.build(None, retriever, [])
    gc.collect()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_search_reads_one_version_whatever_is_written_meanwhile(index, monkeypatch):
    search = View.search

    def slow(*args):
        monkeypatch.undo()
        other = Index.open(index.table.uri, index.retriever)
        other.delete(["a"])
        other.upsert([Document("c", "something else")])
        other.optimize()
        return search(*args)

    monkeypatch.setattr(View, "search", slow)
    found = {hit.id: hit.text for hit in index.search("rain", k=3)}
    assert found == {document.id: document.content for document in DOCUMENTS}
    found = {hit.id: hit.text for hit in index.search("rain", k=3)}
    assert found == {"b'": "Cook: a recipe for bread", "c": "something else"}


def test_what_is_no_index_is_named(index, retriever, tmp_path):
    with pytest.raises(ConflictError, match="exists already"):
        Index.create(tmp_path / "index", retriever)
    with pytest.raises(NotFoundError, match="no such index"):
        Index.open(tmp_path / "nowhere", retriever)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="not an index"):
        Index.open(tmp_path / "empty", retriever)
    with pytest.raises(InputError, match="precision 'int4': choose one of int8"):
        Index.open(tmp_path / "index", retriever, precision="int4")


def test_another_models_index_is_refused(index, retriever, tmp_path):
    other = Rabtriever(LLMEncoder(retriever.encoder.llm, "last"), retriever.predictor)
    with pytest.raises(InputError, match="made by model"):
        Index.open(tmp_path / "index", other)


def test_an_index_finds_its_model_when_it_needs_it(retriever, tmp_path):
    unsaved = Index.build(tmp_path / "unsaved", retriever, DOCUMENTS)
    with pytest.raises(NotFoundError, match="a model that was not saved"):
        Index.open(unsaved.table.uri).search("rain")
    retriever.save_pretrained(tmp_path / "model")
    Index.build(tmp_path / "index", retriever, DOCUMENTS)
    opened = Index.open(tmp_path / "index")
    assert opened.retriever.fingerprint == retriever.fingerprint
    config = json.loads((tmp_path / "model" / "rabtriever.json").read_text())
    changed = {**config, "encoder": {**config["encoder"], "pooling": "last"}}
    (tmp_path / "model" / "rabtriever.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match="made by model"):
        Index.open(tmp_path / "index").search("rain")
    shutil.rmtree(tmp_path / "model")
    moved = Index.open(tmp_path / "index")
    assert moved.info()["documents"] == 3
    with pytest.raises(NotFoundError, match="its model .* is gone"):
        moved.search("rain")


def test_documents_are_got_by_id(index):
    assert [document.id for document in index.get(["nowhere", "c", "b'"])] == ["b'", "c"]
    assert index.get([]) == []


class Lengths:
    """A retriever of texts by length."""

    fingerprint, layout, calibration, name_or_path, reranker = (
        "lengths",
        ScoreLayout(n_inner=1),
        Calibration(),
        None,
        None,
    )

    def encode_query(self, inputs):
        return np.float32([[1, 0, 0]] * len(inputs))

    def encode_document(self, inputs):
        return np.float32([[len(text), 1, 0] for text in inputs])


def test_any_retriever_will_do(tmp_path):
    index = Index.build(tmp_path / "index", Lengths(), DOCUMENTS)
    assert ids(index.search("rain")) == ["a", "b'", "c"]
    assert [hit.log_odds for hit in index.search("rain")] == [25.0, 24.0, 19.0]


NO_NUMBA = """
import sys
sys.modules.update(numba=None, llvmlite=None)
import numpy as np
from test_index import DOCUMENTS, Lengths
from rabtriever.index import Index
from rabtriever.kernels import why_no_llvm
index = Index.build(None, Lengths(), DOCUMENTS)
print([hit.id for hit in index.search("rain")], why_no_llvm())
"""


def test_an_index_needs_no_numba():
    done = subprocess.run([sys.executable, "-c", NO_NUMBA], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.stdout.startswith("['a', \"b'\", 'c'] numba cannot be imported"), done.stderr


INFO = """
import json, sys
import rabtriever.index
early = [name for name in ("torch", "transformers", "numba", "lancedb") if name in sys.modules]
info = rabtriever.index.Index.open(sys.argv[1]).info()
late = [name for name in ("torch", "transformers", "numba") if name in sys.modules]
print(json.dumps([early, info["documents"], info["memory_bytes"], late]))
"""


def test_info_loads_no_model_and_makes_no_segment(index):
    segments = Path(index.table.uri) / "segments"
    shutil.rmtree(segments)
    answer = subprocess.run([sys.executable, "-c", INFO, index.table.uri], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == [[], 3, 0, []]
    assert not segments.exists()
