import errno
import os
import shutil
import time

import numpy as np
import pytest

from rabtriever.data import Document
from rabtriever.errors import InputError
from rabtriever.index import Index, segments, view
from rabtriever.index.clustering import cluster

WIDTH = 16


def documents(n, first=0):
    return [Document(f"d{i}", f"text {i}") for i in range(first, first + n)]


def latents(n, seed=0):
    """Documents around a few centres."""
    chance = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((40, WIDTH + 1)) * 3
    return np.float32(centres[chance.integers(40, size=n)] + 0.3 * chance.standard_normal((n, WIDTH + 1)))


@pytest.fixture
def index(retriever, tmp_path):
    index = Index.create(tmp_path / "index", retriever)
    index.add(documents(3000), latents=latents(3000))
    return index


def reopened(index):
    return Index.open(index.store.uri, index.retriever)


def folders(index):
    return list(index._segments.folder.iterdir())


def test_clusters_change_nothing_of_an_exact_search(index, retriever, tmp_path, monkeypatch):
    plain = index.search(["rain", "cook bread"], k=20)
    monkeypatch.setattr(segments, "CLUSTERED", 1000)
    monkeypatch.setattr(segments, "CLUSTER", 50)
    other = Index.create(tmp_path / "other", retriever)
    other.add(documents(3000), latents=latents(3000))
    assert other.search(["rain", "cook bread"], k=20, mode="exact") == plain
    assert other.info()["clusters"] > 20 and index.info()["clusters"] == 1


def test_an_approximate_search_finds_nearly_all_of_it(index, monkeypatch):
    monkeypatch.setattr(segments, "CLUSTERED", 1000)
    monkeypatch.setattr(segments, "CLUSTER", 50)
    monkeypatch.setattr(view, "NEAR", 400)
    index.add(documents(20, 3000), latents=latents(20, 1))  # not in a cluster, found all the same
    queries = [f"find the {word}" for word in ("rain", "lamp", "bread", "city", "hotel", "sponge")]
    exact, near = (index.search(queries, k=10, mode=mode) for mode in ("exact", "ann"))
    share = [len({hit.id for hit in a} & {hit.id for hit in b}) / 10 for a, b in zip(exact, near, strict=True)]
    assert np.mean(share) >= 0.9
    for a, b in zip(exact, near, strict=True):
        scores = {hit.id: hit.log_odds for hit in a}
        assert all(scores.get(hit.id, hit.log_odds) == hit.log_odds for hit in b)
    only = index.search(queries[0], k=5, mode="ann", where="id IN ('d7', 'd3010')")[0]
    assert {hit.id for hit in only} == {"d7", "d3010"}


def test_auto_searches_approximately_once_exact_is_slow(index, monkeypatch):
    monkeypatch.setattr(segments, "CLUSTERED", 1000)
    opened = index._opened()
    asked = []
    monkeypatch.setattr(view.View, "_near", lambda *args: asked.append(1) or (np.empty(0, int), np.empty(0)))
    index.search("rain")
    assert not asked
    for busy in ([1.0] * (view.TRIALS - 1), [1e-9] + [1.0] * (view.TRIALS - 1)):  # one was fast: the machine was busy
        opened.seconds = busy
        index.search("rain")
        assert not asked
    opened.seconds = [1.0] * view.TRIALS
    index.search("rain", mode="exact")
    assert not asked
    index.search("rain")
    assert asked


@pytest.mark.parametrize("options", [{"precision": "float16"}, {"precision": "float32"}, {"device": "cpu"}])
def test_all_precisions_and_torch_find_the_same(index, retriever, options):
    other = Index.open(index.store.uri, retriever, **options)
    assert other.search(["rain", "lamp"], k=30) == index.search(["rain", "lamp"], k=30)


def test_adds_make_small_segments_which_are_joined_in_time(index, monkeypatch):
    index.search("rain")
    for i in range(3):
        index.add(documents(5, 3000 + 5 * i), latents=latents(5, i))
        assert len(index.search("rain", k=4000)[0]) == 3005 + 5 * i
        assert index.info()["segments"] == 2 + i
    before = index.search("rain", k=4000)
    assert reopened(index).search("rain", k=4000) == before
    assert len(folders(index)) == 4
    monkeypatch.setattr(view, "TAILS", 3)
    index.add(documents(5, 4000), latents=latents(5, 9))
    assert index.info()["segments"] == 2 and len(folders(index)) == 2
    assert len(index.search("rain", k=4000)[0]) == 3020
    monkeypatch.setattr(view, "LEAST", 0)
    index.add(documents(2000, 5000), latents=latents(2000, 9))
    assert index.info()["segments"] == 1 and len(folders(index)) == 1
    assert len(index.search("rain", k=6000)[0]) == 5020
    index.delete([f"d{i}" for i in range(2000)])
    assert index.info()["segments"] == 1 and len(index.search("rain", k=6000)[0]) == 3020
    assert len(index._opened().parts[0].segment.keys) == 3020


def test_what_is_deleted_is_gone_from_small_and_large_segments(index, monkeypatch):
    index.search("rain")
    index.add(documents(5, 3000), latents=latents(5, 1))
    index.search("rain")
    index.delete(["d0", "d1", "d3001"])
    there = {hit.id for hit in index.search("rain", k=4000)[0]}
    assert len(there) == 3002 and not there & {"d0", "d1", "d3001"}
    assert {hit.id for hit in reopened(index).search("rain", k=4000)[0]} == there


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
    shutil.rmtree(index._segments.folder)
    assert reopened(index).search("rain", k=50) == before


def test_segments_lie_in_the_users_cache_if_the_index_is_read_only(index, retriever, tmp_path, monkeypatch):
    before = index.search("rain")
    monkeypatch.setattr(segments.os, "access", lambda path, mode: False)
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    assert reopened(index).search("rain") == before
    assert list((tmp_path / "cache" / "index").rglob("segment.json"))


def test_a_segment_that_nobody_finished_is_removed(index):
    index.search("rain")
    for name, age in ((".old", 2 * segments.ABANDONED), (".young", 0)):
        (index._segments.folder / name).mkdir()
        os.utime(index._segments.folder / name, (time.time() - age,) * 2)
    assert len(reopened(index).search("rain")[0]) == 10
    assert {path.name for path in folders(index)} & {".old", ".young"} == {".young"}


def test_a_full_disk_is_named_and_nothing_is_left(index, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(segments.np, "save", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        index.search("rain")
    assert folders(index) == []
    monkeypatch.undo()
    assert len(index.search("rain")[0]) == 10


def test_every_document_is_in_a_cluster_and_its_mates_are_near():
    values = latents(2000)[:, :-1]
    places = cluster(values, 40)
    assert len(places) == 2000 and set(places) == set(range(places.max() + 1))
    within = np.mean([values[places == c].var(0).sum() for c in range(places.max() + 1)])
    assert within < 0.5 * values.var(0).sum()
    np.testing.assert_array_equal(cluster(np.zeros((10, 3), np.float32), 4), np.zeros(10))
    assert len(cluster(np.empty((0, 3), np.float32), 4)) == 0
