import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from rabtriever.data import Document
from rabtriever.errors import InputError
from rabtriever.index import Index

DOCUMENTS = [
    Document(f"d{i}", f"find the {word}", word.title()) for i, word in enumerate("rain wind city hotel".split())
]


@pytest.fixture
def index(retriever, tmp_path):
    return Index.build(tmp_path / "index", retriever, DOCUMENTS)


def ids(index, **options):
    return {hit.id for hit in index.search("rain", k=99, **options)[0]}


def texts(index):
    return {hit.id: hit.text for hit in index.search("rain", k=99)[0]}


def test_upsert_replaces_and_adds_in_one_transaction(index):
    before = len(index.versions())
    index.upsert([Document("d1", "bread"), Document("new", "music")])
    assert texts(index)["d1"] == "bread" and texts(index)["new"] == "music" and len(index) == 5
    assert len(index.versions()) == before + 1
    with pytest.raises(InputError, match="ids must differ"):
        index.upsert([Document("x", "music"), Document("x", "bread")])
    assert len(index) == 5


def test_an_upserted_document_has_its_new_latent(index, retriever):
    index.upsert([Document("d1", "bread for my wind")])
    hit = next(hit for hit in index.search("rain")[0] if hit.id == "d1")
    expected = retriever.similarity(retriever.encode_query(["rain"]), retriever.encode_document(["bread for my wind"]))
    assert hit.log_odds == pytest.approx(float(expected[0, 0]), abs=1e-4)


def test_older_versions_can_be_read_and_come_back(index, retriever):
    first = index.versions()[-1]["version"]
    index.delete(["d0"])
    index.add([Document("new", "music")])
    past = Index.open(index.store.uri, retriever, version=first)
    assert ids(past) == {"d0", "d1", "d2", "d3"} and len(past) == 4
    with pytest.raises(InputError, match="opened to read"):
        past.delete(["d1"])
    index.restore(first)
    assert ids(index) == {"d0", "d1", "d2", "d3"}
    # The row that is added now has the place in the table that "new" had; its latent must not be that one's.
    index.add([Document("other", "sponge table")])
    assert texts(index)["other"] == "sponge table"
    fresh = Index.open(index.store.uri, retriever)
    assert fresh.search("rain")[0] == index.search("rain")[0]
    with pytest.raises(InputError, match=r"no version 99; there are 1, 2"):
        index.restore(99)


def test_optimize_changes_no_hit_and_forgets_old_versions(index):
    for i in range(4):
        index.add([Document(f"new{i}", f"music {i}")])
    index.delete(["d2", "new1"])
    before = index.search(["rain", "cook bread"], k=99)
    index.optimize(keep=timedelta(0))
    assert index.search(["rain", "cook bread"], k=99) == before
    assert len(index.versions()) <= 2
    index.optimize()
    assert index.search(["rain", "cook bread"], k=99) == before


def test_latents_made_elsewhere_are_taken(index, retriever, tmp_path):
    more = [Document("e0", "bread"), Document("e1", "music")]
    latents = retriever.encode_document([document.content for document in more])
    index.add(more, latents=latents)
    other = Index.build(tmp_path / "other", retriever, DOCUMENTS)
    other.add(more)
    found, expected = (sorted(each.search("rain")[0], key=lambda hit: hit.id) for each in (index, other))
    assert [hit.log_odds for hit in found] == pytest.approx([hit.log_odds for hit in expected], abs=1e-4)
    wrong = latents.copy()
    wrong[1, 3] = np.nan
    for bad, message in (
        (wrong, "'f1' is not finite"),
        (latents[:1], "give each document one latent"),
        (latents[:, :5], "one latent of 17 numbers"),
        (np.repeat(latents, 2, 0), "more latents than documents"),
    ):
        with pytest.raises(InputError, match=message):
            index.add([Document("f0", "x"), Document("f1", "y")], latents=bad)
    assert len(index) == 6


WRITER = """
import sys, time
from rabtriever.index.table import Store
with Store.open(sys.argv[1]).writing():
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_told_and_readers_go_on(index):
    process = subprocess.Popen([sys.executable, "-c", WRITER, index.store.uri], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    for call in (
        lambda: index.add([Document("new", "music")]),
        lambda: index.upsert([Document("d1", "music")]),
        lambda: index.delete(["d1"]),
        lambda: index.optimize(),
        lambda: index.restore(1),
    ):
        with pytest.raises(InputError, match="another process is changing it"):
            call()
    assert ids(index) == {"d0", "d1", "d2", "d3"}
    process.kill()  # a writer that dies holds nothing
    process.wait()
    index.add([Document("new", "music")])
    assert len(index) == 5


def test_a_damaged_table_is_named(index, retriever):
    for path in Path(index.store.uri).rglob("*.manifest"):
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(InputError, match="damaged"):
        Index.open(index.store.uri, retriever)


def test_damaged_data_are_named(index, retriever):
    for path in Path(index.store.uri).rglob("*.lance"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:50])
    shutil.rmtree(index._segments.folder)
    with pytest.raises(InputError, match="damaged"):
        Index.open(index.store.uri, retriever).search("rain")


def test_hybrid_joins_bm25(index, retriever):
    bare = Index.create(index.store.uri + "-bare", index.retriever)
    with pytest.raises(InputError, match="no text index yet; call optimize"):
        bare.search("rain", hybrid="rrf")
    index.add([Document(f"n{i}", f"music song {i}") for i in range(30)])
    index.optimize()
    index.add([Document("late", "a gramophone song")])
    plain = {hit.id: hit for hit in index.search("gramophone", k=99)[0]}
    assert index.search("gramophone", k=3, hybrid="union", mode="exact")[0] == index.search("gramophone", k=3)[0]
    fused = index.search("gramophone", k=5, hybrid="rrf")[0]
    assert "late" in {hit.id for hit in fused} and all(
        hit.log_odds == pytest.approx(plain[hit.id].log_odds, abs=1e-4) for hit in fused
    )
    assert [hit.id for hit in fused] != [hit.id for hit in index.search("gramophone", k=5)[0]]
    assert {hit.id for hit in index.search("gramophone", k=5, hybrid="rrf", where="id = 'late'")[0]} == {"late"}


def test_info_tells_what_there_is(index):
    info = index.info()
    assert info["documents"] == 4 and info["width"] == 16 and info["predictor"] == "mlp" and info["segments"] == 1
    assert info["fingerprint"] == index.retriever.fingerprint and info["text_index"]
    assert info["table_bytes"] > 0 and info["segment_bytes"] > 0 and info["memory_bytes"] > 64 * 16


def test_an_index_in_an_object_store(retriever, tmp_path, monkeypatch):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    uri = f"file://{tmp_path}/store"
    index = Index.build(uri, retriever, DOCUMENTS)
    index.delete(["d0"])
    index.upsert([Document("d1", "bread")])
    other = Index.open(uri, retriever)
    assert texts(other) == texts(index) and texts(other)["d1"] == "bread" and len(other) == 3
    assert list((tmp_path / "cache").rglob("segment.json")) and not list((tmp_path / "store").rglob("segment.json"))
    with pytest.raises(InputError, match="holds tables already"):
        Index.create(uri, retriever)
