import subprocess
import sys

import lancedb
import numpy as np
import pytest

from rabtriever.data import Document, FeedbackEvent
from rabtriever.errors import ConflictError, CorruptIndexError, NotFoundError, StorageError
from rabtriever.index import Index
from rabtriever.index import feedback as module
from rabtriever.index.feedback import FeedbackStore

DOCUMENTS = [Document(name, f"find the {name}") for name in ("rain", "wind", "city", "lamp")]


@pytest.fixture
def index(retriever, tmp_path):
    return Index.build(tmp_path / "index", retriever, DOCUMENTS)


def plain(events):
    """Events as values that can be compared."""
    return [{**vars(event), "state": None if event.state is None else event.state.tolist()} for event in events]


def test_events_come_back_as_they_were_in_the_order_of_time(index):
    store = FeedbackStore(index.table.uri)
    assert store.read() == []
    events = [
        FeedbackEvent("it's dark", "lamp", ("rain", "lamp"), False, 20.0, None, np.array([0.5, -2], np.float16)),
        FeedbackEvent(None, None, ("rain",), True, 10.0, "ab12"),
        FeedbackEvent("dark", "lamp", time=20.0),
    ]
    store.append(events[:1])
    store.append(events[1:])
    store.append([])
    found = FeedbackStore(index.table.uri).read()
    assert plain(found) == plain([events[1], events[0], events[2]])
    assert found[1].state.dtype == np.float16 and isinstance(found[1].shown, tuple)
    store.append([FeedbackEvent("now", "lamp", state=np.array([1 / 3, 1], np.float32))])
    last = store.read()[-1]
    assert last.query == "now" and last.time > 1.7e9 and last.state.tolist() == [np.float16(1 / 3), 1]


def test_the_index_is_not_disturbed(index, retriever):
    before, versions = index.info(), index.versions()
    FeedbackStore(index.table.uri).append([FeedbackEvent("dark", "lamp")])
    assert index.info() == before and index.versions() == versions
    opened = Index.open(index.table.uri, retriever)
    assert opened.search("lamp") == index.search("lamp") and opened.info()["documents"] == 4
    opened.add([Document("new", "music")])
    opened.optimize()
    assert len(index) == 5 and len(FeedbackStore(index.table.uri).read()) == 1


def test_an_index_is_needed_and_none_is_made(index, retriever, tmp_path):
    with pytest.raises(NotFoundError, match="no such index"):
        FeedbackStore(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(ConflictError, match="exists already"):  # feedback is never mixed with another index's
        Index.create(index.table.uri, retriever)


def test_feedback_in_an_object_store(retriever, tmp_path, monkeypatch):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    index = Index.build(f"file-object-store://{tmp_path}/store", retriever, DOCUMENTS)
    stores = [FeedbackStore(index.table.uri) for _ in range(2)]
    for i in range(4):
        stores[i % 2].append([FeedbackEvent(f"dark {i}", "lamp", time=float(i))])
        assert len(stores[1 - i % 2].read()) == i + 1  # seen at once, whoever wrote it
    assert [event.query for event in stores[0].read()] == [f"dark {i}" for i in range(4)]
    assert Index.open(index.table.uri, retriever).search("lamp") == index.search("lamp")


def test_a_conflict_is_tried_again_and_another_fault_is_not(index, monkeypatch):
    original, faults = lancedb.table.LanceTable.add, ["Commit conflict for version 3", "already exists"]

    def add(self, *args, **options):
        if faults:
            raise RuntimeError(faults.pop())
        return original(self, *args, **options)

    monkeypatch.setattr(lancedb.table.LanceTable, "add", add)
    store = FeedbackStore(index.table.uri)
    store.append([FeedbackEvent("dark", "lamp")])
    assert not faults and len(store.read()) == 1
    faults += ["no space left"]
    with pytest.raises(StorageError, match="cannot be written, nothing was changed: no space left"):
        store.append([FeedbackEvent("dark", "lamp")])
    faults += ["commit conflict"] * module.ATTEMPTS
    with pytest.raises(StorageError, match="commit conflict"):
        store.append([FeedbackEvent("dark", "lamp")])
    assert len(store.read()) == 1


def test_files_are_merged_now_and_then(index, monkeypatch):
    monkeypatch.setattr(module, "VERSIONS_PER_OPTIMIZE", 5)
    store = FeedbackStore(index.table.uri)
    for i in range(12):
        store.append([FeedbackEvent(f"dark {i}", "lamp", time=float(i))])
    assert store._open().stats()["fragment_stats"]["num_fragments"] < 8
    assert [event.query for event in store.read()] == [f"dark {i}" for i in range(12)]


def test_what_cannot_be_merged_is_stored_all_the_same(index, monkeypatch):
    def fails(self, **options):
        raise OSError("no space left")

    monkeypatch.setattr(module, "VERSIONS_PER_OPTIMIZE", 1)
    monkeypatch.setattr(lancedb.table.LanceTable, "optimize", fails)
    store = FeedbackStore(index.table.uri)
    store.append([FeedbackEvent("dark", "lamp")])
    assert len(store.read()) == 1


def test_a_damaged_table_is_named(index):
    from pathlib import Path

    store = FeedbackStore(index.table.uri)
    store.append([FeedbackEvent("dark", "lamp")])
    for path in Path(index.table.uri, "feedback.lance").rglob("*.lance"):
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CorruptIndexError, match="damaged"):
        store.read()


WRITER = """
import sys
import numpy as np
from rabtriever.data import FeedbackEvent
from rabtriever.index.feedback import FeedbackStore

uri, name, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
store, state = FeedbackStore(uri), np.arange(384) / 384
for i in range(n):
    store.append([FeedbackEvent(f"{name} {i}", "lamp", ("rain", "lamp"), state=state)])
    print(i, flush=True)
"""


def start_writer(index, name, n):
    command = [sys.executable, "-c", WRITER, index.table.uri, name, str(n)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_several_processes_append_at_the_same_time(index):
    writers = [start_writer(index, name, 40) for name in "abc"]  # the table is not there yet
    for writer in writers:
        assert len(writer.communicate(timeout=120)[0].split()) == 40 and writer.returncode == 0
    found = sorted(event.query for event in FeedbackStore(index.table.uri).read())
    assert found == sorted(f"{name} {i}" for name in "abc" for i in range(40))


def test_a_writer_that_is_killed_loses_nothing_that_it_acknowledged(index):
    writer = start_writer(index, "killed", 1000)
    acknowledged = [int(writer.stdout.readline()) for _ in range(250)]
    writer.kill()
    acknowledged += [int(line) for line in writer.stdout]
    writer.wait()
    assert 250 <= len(acknowledged) < 1000
    events = FeedbackStore(index.table.uri).read()
    queries = [event.query for event in events]
    assert queries[: len(acknowledged)] == [f"killed {i}" for i in acknowledged]
    assert len(queries) <= len(acknowledged) + 1  # one may have been stored and not yet acknowledged
    assert all(event.state.shape == (384,) and event.shown == ("rain", "lamp") for event in events)
    FeedbackStore(index.table.uri).append([FeedbackEvent("after", "lamp")])
    assert len(FeedbackStore(index.table.uri).read()) == len(queries) + 1
    print(f"acknowledged {len(acknowledged)}, stored {len(queries)}")
