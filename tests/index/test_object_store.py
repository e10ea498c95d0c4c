"""An index in an object store: the same as in a folder, and one writer at a time."""

import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from store import running_server

from rabtriever.data import Document
from rabtriever.errors import BusyError, ConflictError, InputError, NotFoundError, StorageError
from rabtriever.index import Index, connection, lease
from rabtriever.index.table import Table

WORDS = "rain wind city hotel bread music lamp sponge".split()
DOCUMENTS = [Document(f"d{i}", f"find the {word}", word.title(), {"n": i}) for i, word in enumerate(WORDS)]


@pytest.fixture
def uri(store, retriever):
    """An index of four documents."""
    uri = f"{store}/index"
    Index.build(uri, retriever, DOCUMENTS[:4])
    return uri


def holder(uri):
    """Who holds the lease."""
    return Table.open(uri).connection.open_table(lease.TABLE).to_arrow()["holder"].to_pylist()[0]


def change(index):
    """Changes an index in every way there is; returns what it found after each."""
    changes = (
        lambda: index.add(DOCUMENTS[4:6]),
        lambda: index.upsert([Document("d1", "music for my wind"), DOCUMENTS[6]]),
        lambda: index.delete(["d0", "d4"]),
        lambda: index.sync([Document("d1", "a lamp"), *DOCUMENTS[2:5], DOCUMENTS[7]], delete=True),
        lambda: index.restore(index.versions()[2]["version"]),
        lambda: index.optimize(),
    )
    found = []
    for one in changes:
        one()
        queries = ["rain", "find the lamp"]
        found.append([index.search(queries, k=99), index.search("city", where="id <> 'd1'"), index.ids(), len(index)])
    return [*found, index.search("find the lamp", mode="bm25")]


def test_an_index_in_a_store_is_the_same_as_in_a_folder(uri, retriever, tmp_path):
    folder = Index.build(tmp_path / "index", retriever, DOCUMENTS[:4])
    assert change(Index.open(uri, retriever)) == change(folder)
    remote = Index.open(uri, retriever)
    described = [[(one["version"], one["documents"]) for one in index.versions()] for index in (remote, folder)]
    assert described[0] == described[1] and len(described[0]) > 4
    past = Index.open(uri, retriever, version=described[0][1][0])
    assert past.search("rain") == Index.open(folder.table.uri, retriever, version=past.version).search("rain")
    assert remote.info()["documents"] == folder.info()["documents"] and holder(uri) == ""
    for call in (lambda: Index.build(uri, retriever, DOCUMENTS), lambda: Index.create(uri, retriever)):
        with pytest.raises(ConflictError, match="holds tables already"):
            call()
    with pytest.raises(InputError, match="an index in an object store cannot learn"):
        remote.learned.load(1)


def test_a_build_that_fails_leaves_nothing(store, retriever):
    with pytest.raises(ConflictError, match="'d0' comes twice|'d0' exists|must differ"):
        Index.build(f"{store}/index", retriever, [DOCUMENTS[0], DOCUMENTS[0]])
    with pytest.raises(NotFoundError, match="not an index"):
        Index.open(f"{store}/index")
    assert len(Index.build(f"{store}/index", retriever, DOCUMENTS)) == 8


WRITER = """
import sys, time
from rabtriever.index import lease
from rabtriever.index.table import Table
lease.LEASE_SECONDS, lease.RENEW_SECONDS = map(float, sys.argv[2:4])
with Table.open(sys.argv[1]).writing():
    print("writing", flush=True)
    time.sleep(60)
"""


def start_writer(uri, seconds, renew):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, uri, str(seconds), str(renew)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "writing\n"
    return process


def test_a_second_writer_is_refused_until_the_first_one_dies(uri, retriever):
    index = Index.open(uri, retriever)
    process = start_writer(uri, 3, 0.5)
    try:
        for call in (
            lambda: index.add([Document("new", "music")]),
            lambda: index.upsert([Document("d1", "music")]),
            lambda: index.delete(["d1"]),
            lambda: index.optimize(),
            lambda: index.restore(1),
        ):
            with pytest.raises(BusyError, match="another process is changing it; wait until it is done"):
                call()
        time.sleep(3.5)  # it renews its lease
        with pytest.raises(BusyError):
            index.delete(["d1"])
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(index) == 4 and len(index.search("rain")) == 4
    index.write_timeout = 20
    started = time.monotonic()
    index.add([Document("new", "music")])  # waits for the end of the lease
    assert time.monotonic() - started < 6 and len(index) == 5 and holder(uri) == ""


def test_of_many_writers_one_wins_at_a_time_and_no_id_comes_twice(uri, retriever):
    """Eight threads add the same documents, with connections of their own."""
    outcomes, barrier = [], threading.Barrier(8)

    def write():
        index = Index.open(uri, retriever)
        barrier.wait()
        try:
            index.add(DOCUMENTS[4:])
            outcomes.append("added")
        except (BusyError, ConflictError) as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (
        outcomes.count("added") == 1 and len(outcomes) == 8 and set(outcomes) <= {"added", "BusyError", "ConflictError"}
    )
    ids = Index.open(uri, retriever).ids()
    assert sorted(ids) == sorted({document.id for document in DOCUMENTS})


ADDER = """
import sys
sys.path.insert(0, sys.argv[3])
import numpy as np
from rabtriever.data import Document
from rabtriever.index.table import Table
from rabtriever.errors import BusyError
from rabtriever.index import lease
lease.WAIT_SECONDS = 0.1
table, me = Table.open(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
done = 0
for turn in range(40):
    if done == 2:
        break
    try:
        with table.writing(30):
            n = len(table)
            document = Document(f"n{n}", me)  # named by what it saw: two at a time would make two of a name
            table.add(iter([([document], np.zeros((1, table.model.layout.dim), np.float32))]), replace=False)
            done += 1
    except BusyError:
        pass
print(done, flush=True)
"""


def test_processes_that_wait_for_one_another_lose_no_change(uri):
    arguments, pipes = [sys.executable, "-c", ADDER, uri], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [
        subprocess.Popen([*arguments, str(i), str(Path(__file__).parents[1])], text=True, **pipes) for i in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60)[0].strip() for process in processes] == ["2"] * 2
    rows = Table.open(uri).table.to_arrow().select(["id", "text"]).to_pylist()
    added = [row for row in rows if row["id"].startswith("n")]
    assert sorted(row["id"] for row in added) == sorted(f"n{n}" for n in range(4, 8))
    assert sorted(row["text"] for row in added) == list("0011")


def test_a_writer_that_lost_its_lease_commits_nothing(uri, retriever, monkeypatch):
    """As one that slept for minutes: another took over before it commits."""
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.0)  # over at once; no thread renews it in time
    slow, fast = Index.open(uri, retriever), Index.open(uri, retriever)

    def documents():
        yield Document("late", "bread")
        time.sleep(1.1)  # `until` is in whole seconds
        monkeypatch.setattr(lease, "LEASE_SECONDS", 60.0)
        fast.add([Document("early", "music")])

    with pytest.raises(BusyError, match="another process took over.*run it again"):
        slow.add(documents())
    assert set(Index.open(uri, retriever).ids()) == {"d0", "d1", "d2", "d3", "early"}
    slow.add([Document("late", "bread")])
    assert len(Index.open(uri, retriever)) == 6


def test_the_lease_leaves_few_files(uri, retriever, monkeypatch):
    monkeypatch.setattr(lease, "VERSIONS_PER_OPTIMIZE", 5)
    monkeypatch.setattr(lease, "RETENTION", timedelta(0))
    table = Table.open(uri)
    for _ in range(8):
        with table.writing():
            pass
    assert len(table.connection.open_table(lease.TABLE).list_versions()) < 10


def test_what_is_wrong_with_a_store_is_told_at_once(uri, retriever, monkeypatch, s3_server):
    started = time.monotonic()
    with pytest.raises(StorageError, match="no such bucket 'nowhere'"):
        Index.open("s3://nowhere/index")
    with pytest.raises(StorageError, match="no such bucket 'nowhere'"):
        Index.build("s3://nowhere/index", retriever, DOCUMENTS)
    with pytest.raises(NotFoundError, match="not an index"):
        Index.open(f"{uri}-other")
    monkeypatch.setattr(connection, "REMOTE_CHECK", timedelta(0))  # each search looks for a newer version
    with running_server() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        opened = Index.open(uri, retriever)
        assert opened.search("rain")
    calls = (lambda: Index.open(uri), lambda: Index.build(uri, retriever, DOCUMENTS), lambda: opened.delete(["d1"]))
    for call in (*calls, lambda: opened.search("rain")):
        with pytest.raises(StorageError, match=r"cannot be used .*AWS_ENDPOINT_URL") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 30
