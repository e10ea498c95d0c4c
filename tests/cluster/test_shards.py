"""Shards are the index: same hits, same order, same log-odds."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rabtriever.cluster.shards import Shard, ShardedIndex
from rabtriever.data import Document
from rabtriever.errors import InputError, NotFoundError
from rabtriever.evaluation.lexical import ConstantRetriever
from rabtriever.index import Index, segments
from rabtriever.index.search import SearchOptions
from rabtriever.scoring.layout import ScoreLayout

QUERIES = ["find the weather", "cook bread", "play music light", "turn lamp", "rain wind city", "hotel"]
WORDS = "weather rain wind city flight hotel recipe cook bread music song play light lamp turn sponge".split()


class Inner(ConstantRetriever):
    """Latents that are given; queries are drawn by their text."""

    layout = ScoreLayout(n_inner=4, n_positive=3, n_negative=3)

    def encode_query(self, inputs):
        return np.stack([np.random.default_rng(len(text)).standard_normal(12) for text in inputs]).astype(np.float32)

    def encoder_only(self, latents, texts):
        return np.concatenate([latents[:, :4], np.zeros((len(latents), 8))], axis=1).astype(np.float32)


def documents(n, first=0):
    return [
        Document(f"d{i}", " ".join(WORDS[j] for j in (i % 16, i * 7 % 16, i * 3 % 11)), metadata={"n": i % 5})
        for i in range(first, first + n)
    ]


def latents(n, seed=0):
    """A third of them the same, so that there are ties."""
    made = np.random.default_rng(seed).standard_normal((n, 12)).astype(np.float32)
    made[::3] = made[:1]
    made[:, -2] = 1
    return made


def sharded(index, count):
    return ShardedIndex(index.table.uri, index.retriever, [Shard(index.table.uri, i, count) for i in range(count)])


@pytest.fixture
def index(retriever, tmp_path):
    index = Index.create(tmp_path / "index", retriever)
    dim = retriever.layout.dim
    made = np.random.default_rng(0).standard_normal((900, dim)).astype(np.float32)
    made[::3] = made[:1]
    made[:, -2] = 1
    index.add(documents(900), latents=made)
    index.optimize(timedelta(1))
    return index


def everything(index, **options):
    """Hits of all modes."""
    modes = ("auto", "exact", "bm25")
    return {mode: index.search(QUERIES, 100, mode=mode, **options) for mode in modes}


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_shards_finds_what_the_index_finds(index, count):
    shards = sharded(index, count)
    assert everything(shards) == everything(index)
    assert everything(shards, where="json_get_int(metadata, 'n') = 3") == everything(
        index, where="json_get_int(metadata, 'n') = 3"
    )
    assert everything(shards, where="false") == everything(index, where="false")
    assert everything(shards, threshold=0.1) == everything(index, threshold=0.1)
    assert shards.search(QUERIES, 5, rerank=10) == index.search(QUERIES, 5, rerank=10)
    assert shards.search("hotel", 10**6) == index.search("hotel", 10**6)
    context = {"history": ["what about bread"], "used": ["d3", "d1"]}
    assert shards.search("hotel", 20, **context) == index.search("hotel", 20, **context)
    ids = ["d7", "nowhere", "d3", "d800"]
    assert shards.get(ids) == index.get(ids) and len(shards) == len(index)
    assert shards.ids() == index.ids()


def test_the_encoder_alone_and_the_clusters(tmp_path, monkeypatch):
    index = Index.create(tmp_path / "index", Inner())
    index.add(documents(2000), latents=latents(2000))
    shards = sharded(index, 4)
    for mode in ("exact", "encoder"):
        assert shards.search(QUERIES, 100, mode=mode) == index.search(QUERIES, 100, mode=mode)
    monkeypatch.setattr(segments, "MIN_DOCUMENTS_FOR_CLUSTERS", 300)
    clustered = sharded(index, 3)  # segments of other shards are not found: they are made anew
    assert clustered.search(QUERIES, 100, mode="exact") == index.search(QUERIES, 100, mode="exact")
    near = clustered.search(QUERIES, 100, mode="ann")  # so few documents are all read
    assert near == index.search(QUERIES, 100, mode="exact")


def test_changes_are_found_by_the_next_search_in_every_shard(index):
    shards, other = sharded(index, 4), sharded(index, 3)
    dim = index.retriever.layout.dim
    everything(shards), everything(other)
    more = np.random.default_rng(1).standard_normal((60, dim)).astype(np.float32)
    more[:, -2] = 1
    for change in (
        lambda one: one.add(documents(30, 900), latents=more[:30]),
        lambda one: one.upsert(documents(60, 880), latents=more),
        lambda one: one.delete([f"d{i}" for i in range(0, 900, 7)]),
        lambda one: one.optimize(timedelta(1)),
        lambda one: one.restore(one.versions()[-3]["version"]),
    ):
        change(shards)
        assert everything(shards) == everything(index) == everything(other)


def test_a_change_by_another_process_is_found(index):
    shards = sharded(index, 2)
    shards.warm()
    index.add([Document("new", "sponge")])
    assert "new" in {hit.id for hit in shards.search("sponge", 2000)}


def test_all_shards_read_one_version_whatever_is_written_meanwhile(index):
    """An upsert moves a document to another shard: read at two versions it would be found twice or not at all."""
    shards, stop = [sharded(index, 3), sharded(index, 3)], threading.Event()
    shards[1]._shards = shards[0]._shards  # two routers of the same shards
    one = index.table.snapshot()
    latent = one.latents_of(one.find("id = 'd1'"))[0]

    def write():
        while not stop.is_set():
            shards[0].upsert([Document("d1", "moves")], latents=[latent])

    with ThreadPoolExecutor(3) as pool:
        writing = pool.submit(write)
        try:
            searching = [
                pool.submit(lambda one: [one.search("hotel", 2000) for _ in range(25)], router) for router in shards
            ]
            for hits in (hits for done in searching for hits in done.result()):
                assert len(hits) == 900 and sum(hit.id == "d1" for hit in hits) == 1
        finally:
            stop.set()
        writing.result()


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 80), count=st.integers(1, 9), k=st.integers(1, 100), seed=st.integers(0, 99))
def test_any_shards_of_any_documents(tmp_path_factory, n, count, k, seed):
    index = Index.create(tmp_path_factory.mktemp("index") / "index", Inner())
    index.add(documents(n), latents=latents(n, seed))
    if seed % 2:
        index.upsert(documents(n // 2), latents=latents(n // 2, seed + 1))
    shards = sharded(index, count)
    found = shards.search(QUERIES, k)
    assert found == index.search(QUERIES, k)
    assert sum(len(shard) for shard in shards._shards) == n


def test_shards_are_of_one_size_after_any_change(tmp_path):
    index = Index.create(tmp_path / "index", Inner())
    index.add(documents(8000), latents=latents(8000))
    index.upsert(documents(4000), latents=latents(4000, 1))
    index.delete([f"d{i}" for i in range(0, 8000, 2)])
    sizes = [len(Shard(index.table.uri, i, 4)) for i in range(4)]
    assert sum(sizes) == 4000 and max(sizes) < 1.15 * min(sizes)


def test_a_condition_cannot_get_out_of_a_shard(index):
    first = Shard(index.table.uri, 0, 2)
    options = SearchOptions(2000, where="id = 'd1') OR (id <> 'd1'")
    vectors = index.retriever.encode_query(["hotel"])
    answer = first.search(["hotel"], vectors, options, index.table.version)
    assert len(answer.found[0].rows.keys) == len(first)


def test_a_shard_does_not_run_ahead_and_says_what_it_lacks(index):
    shard, version = Shard(index.table.uri, 0, 2), index.table.version
    search = lambda version: shard.search(["hotel"], index.retriever.encode_query(["hotel"]), SearchOptions(), version)  # noqa: E731
    assert search(version).version == version
    index.add([Document("new", "sponge")])
    index.add([Document("newer", "sponge")])
    assert search(version).version == version
    assert search(version + 1).version == version + 1
    assert search(version).version == version + 1
    with pytest.raises(NotFoundError, match="no version"):
        search(version + 50)


def test_what_is_wrong_is_said(index):
    with pytest.raises(InputError, match="shard 2 of 2: number shards"):
        Shard(index.table.uri, 2, 2)
    with pytest.raises(InputError, match="where 'nothing = 1'"):
        sharded(index, 2).search("hotel", where="nothing = 1")
