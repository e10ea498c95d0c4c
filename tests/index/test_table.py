import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import lancedb
import numpy as np
import pytest

from rabtriever.data import Document
from rabtriever.errors import BusyError, ConflictError, CorruptIndexError, InputError, NotFoundError, StorageError
from rabtriever.index import Index, connection, schema

DOCUMENTS = [
    Document(f"d{i}", f"find the {word}", word.title()) for i, word in enumerate("rain wind city hotel".split())
]


@pytest.fixture
def index(retriever, tmp_path):
    return Index.build(tmp_path / "index", retriever, DOCUMENTS)


def ids(index, **options):
    return {hit.id for hit in index.search("rain", k=99, **options)}


def texts(index):
    return {hit.id: hit.text for hit in index.search("rain", k=99)}


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
    hit = next(hit for hit in index.search("rain") if hit.id == "d1")
    expected = retriever.similarity(retriever.encode_query(["rain"]), retriever.encode_document(["bread for my wind"]))
    assert hit.log_odds == pytest.approx(float(expected[0, 0]), abs=1e-4)


def test_older_versions_can_be_read_and_come_back(index, retriever):
    first = index.versions()[-1]["version"]
    index.delete(["d0"])
    index.add([Document("new", "music")])
    past = Index.open(index.table.uri, retriever, version=first)
    assert ids(past) == {"d0", "d1", "d2", "d3"} and len(past) == 4
    with pytest.raises(InputError, match="opened to read"):
        past.delete(["d1"])
    index.restore(first)
    assert ids(index) == {"d0", "d1", "d2", "d3"}
    # The row that is added now has the row id that "new" had; its latent must not be that one's.
    index.add([Document("other", "sponge table")])
    assert texts(index)["other"] == "sponge table"
    fresh = Index.open(index.table.uri, retriever)
    assert fresh.search("rain") == index.search("rain")
    for call in (lambda: index.restore(99), lambda: Index.open(index.table.uri, retriever, version=99)):
        with pytest.raises(NotFoundError, match=r"no version 99; there are 1, 2"):
            call()


def test_optimize_changes_no_hit_and_forgets_old_versions(index):
    for i in range(4):
        index.add([Document(f"new{i}", f"music {i}")])
    index.delete(["d2", "new1"])
    before = index.search(["rain", "cook bread"], k=99)
    index.optimize(timedelta(0))
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
    found, expected = (sorted(each.search("rain"), key=lambda hit: hit.id) for each in (index, other))
    assert [hit.log_odds for hit in found] == pytest.approx([hit.log_odds for hit in expected], abs=1e-4)
    wrong = latents.copy()
    wrong[1, 3] = np.nan
    negative = latents.copy()
    negative[1, -2] = -0.5
    for bad, message in (
        (wrong, "'f1' is NaN or infinite"),
        (negative, "'f1': gain -0.5; give one of 0 or more"),
        (latents[:1], "give each document one latent"),
        (latents[:, :5], "one latent of 18 numbers"),
        (np.repeat(latents, 2, 0), "more latents than documents"),
    ):
        with pytest.raises(InputError, match=message):
            index.add([Document("f0", "x"), Document("f1", "y")], latents=bad)
    assert len(index) == 6


def test_an_index_of_another_release_is_refused(index, retriever, tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "FORMAT", schema.FORMAT - 1)
    Index.build(tmp_path / "old", retriever, DOCUMENTS)
    monkeypatch.undo()
    with pytest.raises(InputError, match="an index of another release; index the documents again"):
        Index.open(tmp_path / "old", retriever)


WRITER = """
import sys, time
from rabtriever.index.table import Table
with Table.open(sys.argv[1]).writing():
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_and_readers_go_on(index):
    process = subprocess.Popen([sys.executable, "-c", WRITER, index.table.uri], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    for call in (
        lambda: index.add([Document("new", "music")]),
        lambda: index.upsert([Document("d1", "music")]),
        lambda: index.delete(["d1"]),
        lambda: index.optimize(),
        lambda: index.restore(1),
    ):
        with pytest.raises(BusyError, match="another process is changing it"):
            call()
    assert ids(index) == {"d0", "d1", "d2", "d3"}
    process.kill()  # a writer that dies holds nothing
    process.wait()
    index.add([Document("new", "music")])
    assert len(index) == 5


def test_a_damaged_table_is_named(index, retriever):
    for path in Path(index.table.uri).rglob("*.manifest"):
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CorruptIndexError, match="damaged"):
        Index.open(index.table.uri, retriever)


def test_damaged_data_are_named(index, retriever):
    for path in Path(index.table.uri).rglob("*.lance"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:50])
    shutil.rmtree(Path(index.table.uri) / "segments")
    with pytest.raises(CorruptIndexError, match="damaged"):
        Index.open(index.table.uri, retriever).search("rain")


def test_a_version_that_was_removed_is_not_called_damaged(index, retriever):
    version = index.versions()[-1]["version"]
    reader = Index.open(index.table.uri, retriever, version=version)
    index.upsert([Document(f"d{i}", "music") for i in range(4)])
    index.optimize(timedelta(0))
    with pytest.raises(NotFoundError, match=f"no version {version}; there are"):
        reader.search("rain")


def test_a_restore_that_fails_leaves_the_latest_version_in_use(index, monkeypatch):
    def fails(self, *args):
        raise OSError("no space left")

    first = index.versions()[0]["version"]
    monkeypatch.setattr(lancedb.table.LanceTable, "restore", fails)
    with pytest.raises(StorageError, match="cannot be written.*no space left"):
        index.restore(first)
    assert len(index) == 4 and ids(index) == {"d0", "d1", "d2", "d3"}
    index.add([Document("new", "music")])
    assert len(index) == 5


@pytest.mark.parametrize("change", ["add", "delete", "optimize"])
def test_a_table_that_cannot_be_written_is_named(index, monkeypatch, change):
    def fails(self, *args, **options):
        raise OSError("no space left")

    monkeypatch.setattr(lancedb.table.LanceTable, change, fails)
    calls = {"add": lambda: index.add([Document("x", "y")]), "delete": lambda: index.delete(["d0"])}
    with pytest.raises(StorageError, match="cannot be written, nothing was changed: no space left"):
        calls.get(change, index.optimize)()
    assert len(index) == 4


def test_info_says_what_the_index_holds(index, retriever):
    info = index.info()
    assert info["documents"] == 4 and info["layout"] == retriever.layout.to_dict() and info["segments"] == 1
    assert info["fingerprint"] == index.retriever.fingerprint and info["text_index"]
    assert info["table_bytes"] > 0 and info["segment_bytes"] > 0 and info["memory_bytes"] > 64 * 16
    index.delete(["d0"])
    index.add([Document("new", "music"), Document("newer", "music")])
    assert index.info()["documents"] == len(index) == 5
    assert index.info()["versions"] == len(index.versions()) and index.info()["version"] == info["version"] + 2
    past = Index.open(index.table.uri, retriever, version=info["version"])
    assert past.info()["documents"] == 4 and past.info()["version"] == info["version"]


def test_an_index_in_an_object_store(retriever, tmp_path, monkeypatch):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    uri = f"file-object-store://{tmp_path}/store"
    index = Index.build(uri, retriever, DOCUMENTS)
    index.delete(["d0"])
    index.upsert([Document("d1", "bread")])
    other = Index.open(uri, retriever)
    assert texts(other) == texts(index) and texts(other)["d1"] == "bread" and len(other) == 3
    assert list((tmp_path / "cache").rglob("segment.json")) and not list((tmp_path / "store").rglob("segment.json"))
    with pytest.raises(ConflictError, match="holds tables already"):
        Index.create(uri, retriever)


def test_a_reader_of_an_object_store_asks_for_a_newer_version_now_and_then(retriever, tmp_path, monkeypatch):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(connection, "REMOTE_CHECK", timedelta(hours=1))
    index = Index.build(f"file-object-store://{tmp_path}/store", retriever, DOCUMENTS)
    patient = Index.open(index.table.uri, retriever)
    monkeypatch.setattr(connection, "REMOTE_CHECK", timedelta(0))
    eager = Index.open(index.table.uri, retriever)
    patient.search("rain")
    index.add([Document("new", "music")])
    found = [{hit.id for hit in reader.search("rain")} for reader in (index, eager, patient)]
    assert found[0] == found[1] == found[2] | {"new"} and "new" not in found[2]
    with pytest.raises(ConflictError, match="'new' exists already"):  # a change sees the latest version
        patient.add([Document("new", "bread")])
    assert {hit.id for hit in patient.search("rain")} == found[0]


def test_a_home_folder_and_a_file_uri_are_local_folders_with_a_lock(retriever, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    index = Index.build("~/store", retriever, DOCUMENTS)
    same = Index.open(f"file://{tmp_path}/store", retriever)
    assert (tmp_path / "store").is_dir() and texts(same) == texts(index)
    with index.table.writing(), pytest.raises(BusyError):
        same.add([Document("new", "bread")])


def test_an_index_stays_the_same_wherever_the_process_goes(retriever, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    index = Index.build("index", retriever, DOCUMENTS)
    opened = Index.open("index", retriever)
    monkeypatch.chdir(tmp_path / "elsewhere")
    same = Index.open(tmp_path / "index", retriever)
    for one in (index, opened):
        with one.table.writing(), pytest.raises(BusyError):  # one lock for all
            same.add([Document("new", "bread")])
    opened.add([Document("new", "bread")])
    assert texts(opened) == texts(index) == texts(same) and len(index) == 5
    assert not list((tmp_path / "elsewhere").iterdir())


def test_an_index_is_made_in_an_empty_folder_that_exists(retriever, tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    monkeypatch.chdir(tmp_path / "disk")
    index = Index.build(tmp_path / "link", retriever, DOCUMENTS)
    assert texts(Index.open(".", retriever)) == texts(index)
    with pytest.raises(ConflictError, match="exists already"):
        Index.build(".", retriever, DOCUMENTS)
    assert len(Index.open(tmp_path / "link", retriever)) == 4
