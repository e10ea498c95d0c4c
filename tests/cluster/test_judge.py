"""A reranker on Ray workers: the scores of one process, whatever is killed; one cost cap and rate limit for all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from stub_teacher import StubTeacher

from rabtriever.cluster.judge import RayScorer
from rabtriever.cluster.running import Workers
from rabtriever.data import Document, RetrievalData
from rabtriever.errors import InputError
from rabtriever.evaluation import score_pairs
from rabtriever.evaluation.judge import find_candidates
from rabtriever.evaluation.sample import draw_sample
from rabtriever.evaluation.score_pairs import LocalScorer, judge_into
from rabtriever.persistence.files import Folder
from rabtriever.persistence.vectors import SUFFIX, VectorFolder
from rabtriever.rerankers.loading import load_reranker
from rabtriever.rerankers.remote.options import RemoteOptions
from rabtriever.rerankers.store import ScoreStore, pair_key

WORDS = "weather rain wind city flight hotel recipe cook music song lamp bread".split()
DOCUMENTS = {word: Document(word, f"find the {word} for me") for word in WORDS}
QUERIES = {f"q{i}": f"please show {word}" for i, word in enumerate(WORDS[:10])}
DATA = RetrievalData("made", DOCUMENTS, QUERIES, {"test": {f"q{i}": {WORDS[i]: 1} for i in range(10)}})
EVERYTHING = np.indices((10, 12)).reshape(2, -1).T
READABLE = {
    pair_key(query, document.content) for query in QUERIES.values() for document in list(DOCUMENTS.values())[:-1]
}


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory):
    """The address of Ray on this machine alone, whose workers have a cache of their own."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RABTRIEVER_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setattr(score_pairs, "PAIRS_PER_BLOCK", 16)
        options = {"num_cpus": 2, "object_store_memory": 100_000_000, "include_dashboard": False}
        yield ray.init("local", log_to_driver=False, logging_level="ERROR", **options).address_info["gcs_address"]
        ray.shutdown()


@pytest.fixture(scope="module")
def reranker_folder(cross_encoder_folder, tokenizer, tmp_path_factory):
    """A tiny cross-encoder that cannot read the word "bread"."""
    folder = tmp_path_factory.mktemp("poisoned") / "cross-encoder"
    shutil.copytree(cross_encoder_folder, folder)
    weights = load_file(folder / "model.safetensors")
    token = tokenizer(" bread", add_special_tokens=False)["input_ids"][-1]
    weights["bert.embeddings.word_embeddings.weight"][token] = torch.inf
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


@pytest.fixture
def stub():
    made = StubTeacher()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def judge(sentence_encoders):
    """Scores everything into a store by a scorer."""
    candidates = find_candidates(draw_sample(DATA, "test", 5, 2, 0), sentence_encoders["bert"])
    return lambda place, scorer: judge_into(ScoreStore(place), DATA, candidates, {"it": scorer}, EVERYTHING)


def folder_of(place) -> VectorFolder:
    """The only folder of a store, in which no key may be twice."""
    (name,) = Folder(place).names()
    files = [file for file in Folder(place).names(name) if file.endswith(SUFFIX)]
    folder = VectorFolder(f"{place}/{name}")
    assert sum(len(np.atleast_1d(read(f"{place}/{name}/{file}"))) for file in files) == len(folder)
    return folder


def read(file):
    from safetensors.numpy import load_file as load

    return load(file)["keys"]


def test_workers_score_what_one_process_scores_and_name_what_cannot_be_read(judge, reranker_folder, tmp_path):
    options = {"device": "cpu"}
    local = judge(tmp_path / "local", LocalScorer("it", load_reranker(reranker_folder, **options)))
    expected = folder_of(tmp_path / "local")
    assert set(expected) == READABLE and len(local["scores"]["failed"]) == 10
    assert {one["document"] for one in local["scores"]["failed"]} == {"bread"}
    keys = sorted(expected)
    report = judge(tmp_path / "ray", RayScorer(reranker_folder, options, Workers(2)))
    found = folder_of(tmp_path / "ray")
    assert set(found) == READABLE and report["scores"]["new"] == len(READABLE)
    np.testing.assert_allclose(found.read(keys), expected.read(keys), atol=1e-4)
    failed = [sorted(one["scores"]["failed"], key=str) for one in (report, local)]
    assert failed[0] == failed[1] and report["teachers"]["it"]["R@1"] == local["teachers"]["it"]["R@1"]


def test_a_reranker_that_workers_cannot_load_is_one_line(judge, tmp_path):
    with pytest.raises(InputError, match="nowhere") as raised:
        judge(tmp_path / "store", RayScorer(str(tmp_path / "nowhere"), {"device": "cpu"}, Workers(1)))
    assert "\n" not in str(raised.value)


def test_too_large_a_worker_is_refused(judge, reranker_folder, tmp_path):
    with pytest.raises(InputError, match="no room for a worker of 64 cores"):
        judge(tmp_path / "store", RayScorer(reranker_folder, {}, Workers(cpus=64)))


def test_cost_cap_rate_and_requests_in_flight_hold_for_all_workers_and_a_killed_one_loses_nothing(
    judge, stub, tmp_path
):
    def scorer(**options):
        made = RemoteOptions(documents_per_request=4, concurrency=3, price_per_1000_requests=1000, **options)
        return RayScorer(stub.source("tei"), {"remote": made}, Workers(2))

    stub.delay = 0.1
    with pytest.raises(InputError, match="max_cost 10: the next request could pass it, 10 are spent"):
        judge(tmp_path / "store", scorer(max_cost=10))
    assert len(stub.requests) == 10
    paid = {pair_key(*pair) for pair in stub.pairs}
    assert set(folder_of(tmp_path / "store")) == paid and len(paid) < 120

    killed = []

    def kill(address):
        with stub.lock:
            if len(stub.requests) == 18 and not killed:
                killed.append(client(address).pid)
                os.kill(killed[0], signal.SIGKILL)

    stub.delay, stub.on_request, stub.times = 0.4, kill, []
    report = judge(tmp_path / "store", scorer(requests_per_minute=600))
    assert killed and report["scores"]["failed"] == []
    expected = {pair_key(query, document.content) for query in QUERIES.values() for document in DOCUMENTS.values()}
    assert set(folder_of(tmp_path / "store")) == expected
    assert stub.at_once == 3  # a worker has but two threads: both were at work
    times = np.array(stub.times)
    for apart in (1, 5, 10):  # ten a second; the way to the server may take longer for one than for another
        assert (times[apart:] - times[:-apart] > 0.1 * apart - 0.09).all()
    assert sum(count - 1 for count in stub.pairs.values()) <= 2 * 4  # what the killed one had in flight


def client(address) -> psutil.Process:
    """The process at the other end of a connection."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(found.laddr and tuple(found.laddr) == address for found in process.net_connections()):
                return process
    raise AssertionError(f"nobody at {address}")


KILLED = """
import sys
from rabtriever.cli import main
from rabtriever.evaluation import score_pairs
score_pairs.PAIRS_PER_BLOCK = 16
main(sys.argv[1:])
"""


def test_after_a_killed_command_only_the_rest_is_scored(cluster, judge, stub, tmp_path, sentence_folders, monkeypatch):
    from tiny import write_beir

    stub.delay = 0.3
    data, store = write_beir(tmp_path / "made", DATA), tmp_path / "store"
    command = ["judge", data, "--teacher", stub.source("tei"), "--encoder", sentence_folders["bert"], "--split", "test"]
    several = (
        "--queries-limit",
        0,
        "--depth",
        12,
        "--out",
        store,
        "--ray",
        cluster,
        "--ray-workers",
        2,
        "--concurrency",
        2,
    )
    environment = {**os.environ, "RABTRIEVER_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, *map(str, (*command, *several))],
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 300
        while len(list(store.rglob(f"*{SUFFIX}"))) < 3 and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.1)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    wait_until_nobody_asks(stub)
    stored = set(folder_of(store))
    assert 0 < len(stored) < 120
    stub.delay, stub.pairs = 0, Counter()
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "another"))  # so that only the store knows
    report = judge(store, LocalScorer("it", load_reranker(stub.source("tei"))))
    asked = {pair_key(*pair) for pair in stub.pairs}
    assert not asked & stored and len(asked | stored) == 120 and report["scores"]["new"] == len(asked)
    assert set(folder_of(store)) == asked | stored


def wait_until_nobody_asks(stub):
    quiet = threading.Event()
    for _ in range(100):
        seen = len(stub.requests)
        quiet.wait(0.7)
        if len(stub.requests) == seen:
            return
    raise AssertionError("workers outlive their driver")
