import errno
import itertools
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rabtriever.data import Document
from rabtriever.errors import StorageError
from rabtriever.evaluation.lexical import ConstantRetriever
from rabtriever.index import Index, current_view, encoding, segments, view
from rabtriever.scoring.fold import score_latents
from rabtriever.scoring.layout import ScoreLayout

WIDTH = 16


def documents(n, first=0):
    return [Document(f"d{i}", f"text {i}") for i in range(first, first + n)]


def latents(n, seed=0):
    """Documents around a few centres."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((40, WIDTH + 2)) * 3
    made = np.float32(centres[rng.integers(40, size=n)] + 0.3 * rng.standard_normal((n, WIDTH + 2)))
    made[:, -2] = rng.choice([0.25, 1], n)
    return made


@pytest.fixture
def index(retriever, tmp_path):
    index = Index.create(tmp_path / "index", retriever)
    index.add(documents(3000), latents=latents(3000))
    return index


def reopened(index):
    return Index.open(index.table.uri, index.retriever)


def segment_folder(index):
    return index._current._segments.folder


def folders(index):
    return list(segment_folder(index).iterdir())


def found(index, k=10_000, **options):
    return {hit.id for hit in index.search("rain", k, **options)}


@pytest.fixture
def clustered(retriever, tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "MIN_DOCUMENTS_FOR_CLUSTERS", 1000)
    monkeypatch.setattr(segments, "DOCUMENTS_PER_CLUSTER", 25)
    monkeypatch.setattr(view, "ANN_DOCUMENTS", 400)
    index = Index.create(tmp_path / "clustered", retriever)
    index.add(documents(3000), latents=latents(3000))
    return index


def test_clusters_change_nothing_of_an_exact_search(index, request):
    queries = ["rain", "cook bread"]
    plain = index.search(queries, k=20)
    clustered = request.getfixturevalue("clustered")
    assert clustered.search(queries, k=20, mode="exact") == plain
    assert clustered.info()["clusters"] > 20 and index.info()["clusters"] == 1


def test_an_approximate_search_finds_nearly_all_of_it(clustered):
    clustered.warm()
    clustered.add(documents(20, 3000), latents=latents(20, 1))  # not in a cluster, found all the same
    queries = [f"find the {word}" for word in ("rain", "lamp", "bread", "city", "hotel", "sponge")]
    exact, near = (clustered.search(queries, k=10, mode=mode) for mode in ("exact", "ann"))
    share = [len({hit.id for hit in a} & {hit.id for hit in b}) / 10 for a, b in zip(exact, near, strict=True)]
    assert np.mean(share) >= 0.9
    for a, b in zip(exact, near, strict=True):
        scores = {hit.id: hit.log_odds for hit in a}
        assert all(scores.get(hit.id, hit.log_odds) == hit.log_odds for hit in b)
    assert found(clustered, mode="ann", where="id IN ('d7', 'd3010')") == {"d7", "d3010"}


@pytest.mark.parametrize(("exact_up_to", "approximate"), [(3000, False), (2999, True)])
def test_auto_is_decided_by_the_number_of_documents(clustered, exact_up_to, approximate):
    scattered = np.random.default_rng(0).standard_normal((3000, WIDTH + 2), np.float32)
    scattered[:, -2] = 1
    clustered.upsert(documents(3000), latents=scattered)
    index = Index.open(clustered.table.uri, clustered.retriever, exact_up_to=exact_up_to)
    queries = [f"find the {word}" for word in ("rain", "lamp", "bread", "city", "hotel", "sponge")]
    exact, near, auto = (index.search(queries, k=100, mode=mode) for mode in ("exact", "ann", "auto"))
    assert exact != near
    assert auto == (near if approximate else exact)
    for _ in range(5):  # however busy the machine is
        assert index.search(queries, k=100) == auto


def test_auto_is_exact_by_default(clustered):
    queries = ["rain", "lamp"]
    assert clustered.search(queries, k=500) == clustered.search(queries, k=500, mode="exact")
    assert view.EXACT_UP_TO >= 1_000_000


def insertion_order(hits):
    """Whether equal log-odds come in the order of the ids' numbers."""
    keys = [(-hit.log_odds, int(hit.id[1:])) for hit in hits]
    return keys == sorted(keys)


@pytest.mark.parametrize("options", [{}, {"precision": "float16"}, {"precision": "float32"}, {"device": "cpu"}])
@pytest.mark.parametrize("mode", ["exact", "ann", "auto"])
def test_equal_documents_have_equal_log_odds_and_come_in_the_order_of_insertion(
    retriever, tmp_path, monkeypatch, options, mode
):
    monkeypatch.setattr(segments, "MIN_DOCUMENTS_FOR_CLUSTERS", 300)
    monkeypatch.setattr(segments, "DOCUMENTS_PER_CLUSTER", 50)
    monkeypatch.setattr(current_view, "MIN_ROWS_TO_MERGE", 0)
    kinds = latents(7)
    of = lambda first, n: np.stack([kinds[i % 7] for i in range(first, first + n)])  # noqa: E731
    writer = Index.create(tmp_path / "index", retriever)
    writer.add(documents(400), latents=of(0, 400))
    index = Index.open(tmp_path / "index", retriever, exact_up_to=100, **options)

    def check(expected, k):
        hits = index.search("rain", k, mode=mode)
        assert insertion_order(hits)
        assert len({hit.log_odds for hit in hits}) == len({int(hit.id[1:]) % 7 for hit in hits})
        if mode == "exact":
            assert len(hits) == min(k, expected)
            assert hits == reopened(index).search("rain", k, mode="exact")
        return hits

    check(400, 1000)
    assert [int(hit.id[1:]) for hit in check(400, 20)] == [int(hit.id[1:]) for hit in check(400, 57)[:20]]
    version = writer.versions()[-1]["version"]
    for first in (400, 410, 420):  # segments of their own
        writer.add(documents(10, first), latents=of(first, 10))
        check(first + 10, 1000)
    writer.delete([f"d{i}" for i in range(0, 200, 3)])  # a new first segment
    check(363, 1000)
    writer.optimize()
    check(363, 1000)
    writer.restore(version)
    check(400, 1000)
    writer.add(documents(10, 400), latents=of(400, 10))
    check(410, 1000)


def test_equal_texts_are_equal_hits_in_the_order_of_insertion(retriever, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "DOCUMENTS_PER_BATCH", 2)  # what an encoder reads beside a text changes last digits
    encode, calls = retriever.encode_document, itertools.count(1)
    monkeypatch.setattr(retriever, "encode_document", lambda texts: encode(texts) + np.float32(1e-6 * next(calls)))
    texts = ["find the rain", "a song", "find the rain", "bread", "a song", "find the rain"]
    index = Index.build(tmp_path / "index", retriever, [Document(f"d{i}", text) for i, text in enumerate(texts)])
    for options in ({}, {"rerank": 6}, {"rerank": 2}, {"mode": "bm25"}):
        hits = index.search("the rain", k=6, **options)
        assert insertion_order(hits)
        assert len({(hit.text, hit.log_odds, hit.probability) for hit in hits}) == len({hit.text for hit in hits})


def test_the_order_of_insertion_does_not_follow_the_rows_on_disk(index, monkeypatch):
    """Where files merge, Lance's row ids no longer ascend in the order of insertion."""
    equal = np.repeat(latents(1), 3, axis=0)
    now = time.time_ns()
    for i, first in enumerate((3010, 3000)):
        monkeypatch.setattr("rabtriever.index.schema.time.time_ns", lambda i=i: now - i * 10**9)
        index.add(documents(3, first), latents=equal)
    where = "id >= 'd3000' AND id < 'd3013' AND length(id) = 5"
    assert [hit.id for hit in index.search("rain", k=6, where=where)] == [
        "d3000", "d3001", "d3002", "d3010", "d3011", "d3012"
    ]  # fmt: skip
    assert [document.id for document in index.get(["d3011", "d3001"])] == ["d3001", "d3011"]
    index.optimize()
    assert [hit.id for hit in index.search("text", k=2, mode="bm25", where=where)] == ["d3000", "d3001"]
    index.delete(["d3000"])
    assert reopened(index).search("rain", k=5, where=where) == index.search("rain", k=5, where=where)
    assert index.search("rain", k=5, where=where)[0].id == "d3001"


@pytest.mark.parametrize("options", [{"precision": "float16"}, {"precision": "float32"}, {"device": "cpu"}])
def test_all_precisions_and_torch_find_the_same(index, retriever, options):
    other = Index.open(index.table.uri, retriever, **options)
    assert other.search(["rain", "lamp"], k=30) == index.search(["rain", "lamp"], k=30)


@pytest.mark.parametrize("options", [{}, {"precision": "float16"}, {"precision": "float32"}, {"device": "cpu"}])
def test_all_columns_and_gains_come_through_an_index(tmp_path, options):
    layout, rng = ScoreLayout(5, 3, 4), np.random.default_rng(0)
    queries, made = (rng.standard_normal((n, layout.dim), np.float32) for n in (2, 200))
    made[:, -2] = rng.choice([0, 0.25, 1], 200)
    retriever = ConstantRetriever()
    retriever.layout, retriever.encode_query = layout, lambda texts: queries[: len(texts)]
    Index.create(tmp_path / "index", retriever).add(documents(200), latents=made)
    found = Index.open(tmp_path / "index", retriever, **options).search(["one", "two"], k=200)
    for hits, row in zip(found, score_latents(queries, made, layout), strict=True):
        assert [hit.log_odds for hit in hits] == [row[int(hit.id[1:])] for hit in hits] == sorted(row, reverse=True)


def test_adds_make_small_segments_which_are_merged_in_time(index, monkeypatch):
    index.search("rain")
    for i in range(3):
        index.add(documents(5, 3000 + 5 * i), latents=latents(5, i))
        assert len(found(index)) == 3005 + 5 * i
        assert index.info()["segments"] == 2 + i
    before = index.search("rain", k=4000)
    assert reopened(index).search("rain", k=4000) == before
    assert len(folders(index)) == 4
    monkeypatch.setattr(current_view, "MAX_SEGMENTS", 3)
    index.add(documents(5, 4000), latents=latents(5, 9))
    assert len(found(index)) == 3020
    assert index.info()["segments"] == 2 and len(folders(index)) == 2
    monkeypatch.setattr(current_view, "MIN_ROWS_TO_MERGE", 0)
    index.add(documents(2000, 5000), latents=latents(2000, 9))
    assert len(found(index)) == 5020
    assert index.info()["segments"] == 1 and len(folders(index)) == 1
    index.delete([f"d{i}" for i in range(2000)])
    assert len(found(index)) == 3020
    assert index.info()["segments"] == 1 and len(index._current.get().parts[0].segment.keys) == 3020


def test_readers_share_their_segments(index):
    readers = [reopened(index) for _ in range(3)]
    for i in range(3):
        assert [len(found(reader)) for reader in readers] == 3 * [3000 + 5 * i]
        assert len(folders(index)) == 1 + i
        index.add(documents(5, 3000 + 5 * i), latents=latents(5, i))
    index.delete([f"d{i}" for i in range(3000) if i % 2])  # so many that one segment is made anew
    index.add(documents(5000, 4000), latents=latents(5000))
    assert len({frozenset(found(reader)) for reader in readers}) == 1
    assert len(folders(index)) == 1


def test_readers_that_start_at_once_make_one_segment(index, monkeypatch):
    readers, both, load = [reopened(index) for _ in range(2)], threading.Barrier(2), segments.Segments.load

    def together(self, *known):
        found = load(self, *known)
        if not known:  # neither may find the other's segment when it begins
            both.wait(10)
        return found

    monkeypatch.setattr(segments.Segments, "load", together)
    with ThreadPoolExecutor(2) as pool:
        hits = list(pool.map(found, readers))
    assert hits[0] == hits[1] and len(hits[0]) == 3000
    assert len(folders(index)) == 1


def test_a_process_that_hangs_while_it_makes_a_segment_stops_nobody(index, monkeypatch):
    monkeypatch.setattr(segments, "MAX_WAIT_SECONDS", 0.1)
    with index._current._segments.making():
        assert len(found(reopened(index))) == 3000


def test_deleted_documents_are_gone_from_small_and_large_segments(index):
    index.search("rain")
    index.add(documents(5, 3000), latents=latents(5, 1))
    index.search("rain")
    index.delete(["d0", "d1", "d3001"])
    left = found(index)
    assert len(left) == 3002 and not left & {"d0", "d1", "d3001"}
    assert found(reopened(index)) == left


@pytest.mark.parametrize("file", [*segments.ARRAYS, "segment"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_segment_is_made_anew(index, file, damage):
    before = index.search("rain", k=50)
    (folder,) = folders(index)
    path = folder / (f"{file}.json" if file == "segment" else f"{file}.npy")
    if damage == "gone":
        path.unlink()
    else:
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[: size // 2])
    assert reopened(index).search("rain", k=50) == before
    shutil.rmtree(segment_folder(index))
    assert reopened(index).search("rain", k=50) == before


def test_a_segment_that_nobody_finished_is_removed(index):
    index.search("rain")
    for name, age in ((".old", 2 * segments.STALE_AFTER_SECONDS), (".young", 0)):
        (segment_folder(index) / name).mkdir()
        os.utime(segment_folder(index) / name, (time.time() - age,) * 2)
    (segment_folder(index) / ".gone").symlink_to("what another process has renamed meanwhile")
    assert len(reopened(index).search("rain")) == 10
    assert {path.name for path in folders(index)} & {".old", ".young"} == {".young"}


def test_a_full_disk_is_named_and_nothing_is_left(index, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(segments.np, "save", full)
    with pytest.raises(StorageError, match=r"cannot be written \(No space left on device\)"):
        index.search("rain")
    assert folders(index) == []
    monkeypatch.undo()
    assert len(index.search("rain")) == 10


@pytest.fixture
def read_only(index, tmp_path, monkeypatch):
    """The index where neither its folder nor the cache can be written, as in a container."""
    found(index)
    (tmp_path / "file").touch()
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(segments.os, "access", lambda path, mode: False)  # root may write to every folder
    return index


def test_a_read_only_index_brings_its_segments(read_only, index):
    expected, before = index.search("rain", 20), folders(index)
    assert reopened(read_only).search("rain", 20) == expected
    assert folders(index) == before
    for folder in before:
        (folder / "segment.json").unlink()
    with pytest.raises(StorageError, match=r"file/.*cannot be written .Not a directory.; .*set RABTRIEVER_CACHE"):
        reopened(read_only).search("rain")


def test_what_a_read_only_index_lacks_is_made_in_the_cache(index, tmp_path, monkeypatch):
    found(index)
    before = folders(index)
    index.add(documents(5000, 3000), latents=latents(5000))
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(segments.os, "access", lambda path, mode: False)
    reader = reopened(index)
    assert len(found(reader)) == 8000 and reader.info()["segments"] == 2  # its own was merged into the cached one
    assert folders(index) == before and len(list((tmp_path / "cache").rglob("segment.json"))) == 1


def test_a_read_only_index_refuses_changes_in_one_line(index, monkeypatch):
    def refused(*args, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("filelock.FileLock.acquire", refused)
    with pytest.raises(StorageError, match="index: cannot be written .Read-only file system.; make it writable"):
        index.delete(["d0"])
