from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_teacher import DOCUMENTS, QUERIES, StubTeacher

from rabtriever.llm.prompted import PromptedLLM
from rabtriever.persistence.files import Folder
from rabtriever.persistence.vectors import write_vectors
from rabtriever.rerankers.blocks import distinct_pairs, make_blocks, score_block
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.rerankers.remote.options import RemoteOptions
from rabtriever.rerankers.remote.reranker import RemoteReranker
from rabtriever.rerankers.remote.source import RemoteSource
from rabtriever.rerankers.store import ScoreStore, StoredReranker, pair_key
from rabtriever.scoring.calibration import Calibration

PAIRS = st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=60)


@pytest.fixture
def stub(monkeypatch, tmp_path):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    made = StubTeacher()
    yield made
    made.server.shutdown()
    made.server.server_close()


@settings(deadline=None)
@given(PAIRS, st.sampled_from(["query", "document"]), st.integers(1, 20))
def test_blocks_hold_every_pair_once_and_do_not_divide_what_fits_into_one(pairs, group_by, size):
    blocks = make_blocks(np.array(sorted(pairs), np.int64).reshape(-1, 2), group_by, size)
    assert sorted(map(tuple, np.concatenate(blocks).tolist() if blocks else [])) == sorted(pairs)
    assert all(0 < len(block) <= size for block in blocks)
    side = int(group_by == "document")
    for text in range(10):
        count = sum(pair[side] == text for pair in pairs)
        holders = [block for block in blocks if (block[:, side] == text).any()]
        assert len(holders) == -(-count // size)


def test_equal_texts_are_one_pair():
    pairs = np.array([[0, 0], [1, 1], [2, 0], [2, 1]])
    assert distinct_pairs(["a", "b", "a"], ["x", "x"], pairs).tolist() == [[0, 0], [1, 0]]


def test_a_block_that_is_there_adds_nothing(reranker, tmp_path):
    texts = ["rain", "show music"], ["find the weather", "a recipe"]
    pairs, uri = np.array([[0, 0], [1, 1]]), ScoreStore(tmp_path).prepare(reranker)
    assert [score_block(reranker, uri, *texts, pairs).new for _ in range(2)] == [2, 0]


def test_a_fault_counts_each_answer_once(stub, tmp_path):
    options = RemoteOptions(concurrency=1, price_per_1000_requests=1000, max_cost=3)
    reranker = RemoteReranker(RemoteSource.parse(stub.source("chat")), options)
    pairs = np.indices((2, 3)).reshape(2, -1).T
    outcome = score_block(reranker, ScoreStore(tmp_path).prepare(reranker), QUERIES, DOCUMENTS, pairs)
    assert "max_cost" in outcome.fault and outcome.new == outcome.masses[1] == 3


def test_scores_of_a_rerankers_own_arithmetic_go_first(tmp_path):
    store, pair = ScoreStore(tmp_path), np.array([[0, 0]])
    models = [
        SimpleNamespace(fingerprint="it", numerics=name, describe=dict) for name in ("float32", "bfloat16", "int8")
    ]
    for value, model in enumerate(models):
        write_vectors(Folder(store.prepare(model)), [pair_key("q", "d")], np.array([[value]]))
    for value, model in enumerate(models):
        stored = StoredReranker("it", Calibration(), store.read(model), {})
        assert stored.score(["q"], ["d"], pair).log_odds == [value]
    unknown = SimpleNamespace(fingerprint="it", numerics="float16")
    assert len(store.read(unknown)) == 3


def test_what_is_read_first_is_grouped(reranker):
    template = replace(reranker.llm.template, query_first=True)
    assert reranker.group_by == "document"
    assert GenerativeReranker(PromptedLLM(reranker.llm.loaded, template)).group_by == "query"
