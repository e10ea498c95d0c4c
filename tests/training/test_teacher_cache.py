from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rabtriever.encoders.llm import LLMEncoder
from rabtriever.errors import InputError
from rabtriever.llm.loading import load_llm
from rabtriever.llm.prompted import PromptedLLM
from rabtriever.persistence import vectors
from rabtriever.persistence.files import Folder
from rabtriever.rerankers.base import Scores
from rabtriever.rerankers.blocks import score_block
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.rerankers.store import IDENTITY, ScoreStore
from rabtriever.training import teacher_cache as module
from rabtriever.training.teacher_cache import TeacherCache

QUERIES, DOCUMENTS = ["rain", "show music", "cook"], ["find the weather", "a recipe"]
PAIRS = torch.tensor([[0, 0], [2, 1], [1, 0], [0, 0]])


def live(teacher, pairs=PAIRS):
    return Scores(*map(torch.from_numpy, teacher.score(QUERIES, DOCUMENTS, pairs.numpy(), with_states=True)))


def test_cached_is_live_and_no_pair_is_scored_twice(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "VECTORS_PER_FILE", 2)
    log_odds, first, n_new = TeacherCache(teacher, tmp_path).scores(QUERIES, DOCUMENTS, PAIRS)
    assert n_new == len(teacher.scored) == 3  # one pair occurs twice
    torch.testing.assert_close(first, live(teacher).states, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(log_odds, live(teacher).log_odds, atol=1e-5, rtol=1e-5)
    assert TeacherCache(teacher, tmp_path).scores(QUERIES, DOCUMENTS, torch.tensor([[0, 1]]))[2] == 1
    *again, n_new = TeacherCache(teacher, tmp_path).scores(QUERIES, DOCUMENTS, PAIRS[[1, 0]])
    assert n_new == 0
    torch.testing.assert_close(again, [log_odds[[1, 0]], first[[1, 0]]], atol=0, rtol=0)


@pytest.mark.parametrize("other", [{"backend": "int8"}, {"dtype": torch.bfloat16}], ids=["int8", "bfloat16"])
def test_after_a_run_of_other_numbers_a_float32_run_reads_none_of_them(llm_folder, reranker, tmp_path, other):
    options = {"dtype": torch.float32, "backend": "torch", "device": "cpu", **other}
    coarse = GenerativeReranker(PromptedLLM(load_llm(str(llm_folder), **options), reranker.llm.template))
    assert coarse.fingerprint == reranker.fingerprint
    _, coarse_states, _ = TeacherCache(coarse, tmp_path).scores(QUERIES, DOCUMENTS, PAIRS)
    coarse_queries = TeacherCache(LLMEncoder(coarse.llm), tmp_path).states("query", QUERIES)
    _, exact, n_new = TeacherCache(reranker, tmp_path).scores(QUERIES, DOCUMENTS, PAIRS)
    assert n_new == 3
    torch.testing.assert_close(exact, live(reranker).states, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(exact, coarse_states, atol=1e-4)
    encoder = LLMEncoder(reranker.llm)
    states = TeacherCache(encoder, tmp_path).states("query", QUERIES)
    np.testing.assert_allclose(states, encoder.encode_queries(QUERIES), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(states, coarse_queries, atol=1e-4)


def test_other_weights_or_another_prompt_is_another_cache(reranker, tmp_path):
    template = replace(reranker.llm.template, query=reranker.llm.template.query + " now?")
    prompted = GenerativeReranker(PromptedLLM(reranker.llm.loaded, template))
    folders = {TeacherCache(teacher, tmp_path).folder for teacher in (reranker, prompted)}
    loaded = replace(reranker.llm.loaded, weights_hash="another")
    folders.add(TeacherCache(GenerativeReranker(PromptedLLM(loaded, reranker.llm.template)), tmp_path).folder)
    assert len(folders) == 3


def test_states_are_cached_by_kind_and_pooling(reranker, tmp_path, monkeypatch):
    for kind, pooling in (("query", "mean"), ("query", "last"), ("document", "mean")):
        encoder = LLMEncoder(reranker.llm, pooling)
        expected = encoder.encode_queries(QUERIES) if kind == "query" else encoder.encode_documents(QUERIES)
        states = TeacherCache(encoder, tmp_path).states(kind, QUERIES)
        np.testing.assert_allclose(states, expected, atol=1e-5, rtol=1e-5)
        with monkeypatch.context() as patch:
            patch.setattr(LLMEncoder, "_encode", lambda *args: pytest.fail("encoded again"))
            assert torch.equal(TeacherCache(encoder, tmp_path).states(kind, QUERIES), states)


def test_only_the_texts_of_a_chunk_are_tokenised(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "VECTORS_PER_FILE", 1)
    tokenised = []
    prompt = type(teacher.llm.prompt)
    original = prompt.document_ids

    def spy(self, texts, **options):
        tokenised.append(texts)
        return original(self, texts, **options)

    monkeypatch.setattr(prompt, "document_ids", spy)
    documents = [*DOCUMENTS, *(f"document {i}" for i in range(100))]
    TeacherCache(teacher, tmp_path).scores(QUERIES, documents, PAIRS)
    assert [len(texts) for texts in tokenised] == [1, 1, 1]


def test_opening_a_cache_reads_names_and_a_call_the_files_that_it_needs(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "VECTORS_PER_FILE", 1)
    TeacherCache(teacher, tmp_path).scores(QUERIES, DOCUMENTS, PAIRS)
    read = []
    original = vectors._read
    monkeypatch.setattr(vectors, "_read", lambda place, shard, name: read.append(name) or original(place, shard, name))
    cache = TeacherCache(teacher, tmp_path)
    assert read == ["keys"] * 3
    cache.scores(QUERIES, DOCUMENTS, PAIRS[[0, 3]])
    assert read == ["keys"] * 3 + ["vectors"]


def test_an_interrupted_run_keeps_what_was_scored(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "VECTORS_PER_FILE", 1)
    score = type(teacher).score

    def interrupted(self, *args, **options):
        if len(self.scored) == 2:
            raise KeyboardInterrupt
        return score(self, *args, **options)

    monkeypatch.setattr(type(teacher), "score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        TeacherCache(teacher, tmp_path).scores(QUERIES, DOCUMENTS, PAIRS)
    monkeypatch.setattr(type(teacher), "score", score)
    assert TeacherCache(teacher, tmp_path).scores(QUERIES, DOCUMENTS, PAIRS)[2] == 1
    assert not list(tmp_path.rglob("*.partial"))


def test_a_broken_cache_file_is_named(reranker, tmp_path):
    cache = TeacherCache(reranker, tmp_path)
    (cache.folder / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="bad.safetensors: not a readable cache file"):
        TeacherCache(reranker, tmp_path)


def stored(teacher, place, pairs=PAIRS):
    """A store with the scores of some pairs, of the teacher itself."""
    store = ScoreStore(place)
    outcome = score_block(teacher, store.prepare(teacher), QUERIES, DOCUMENTS, pairs.unique(dim=0).numpy())
    assert outcome.new == len(pairs.unique(dim=0)) and not outcome.fault
    teacher.scored.clear()
    return ScoreStore(place)


def test_scores_of_a_store_are_not_computed_and_those_it_lacks_are(teacher, tmp_path):
    expected = live(teacher)
    store = stored(teacher, tmp_path / "store", PAIRS[:2])
    log_odds, states, n_new = TeacherCache(teacher, tmp_path / "cache", store).scores(QUERIES, DOCUMENTS, PAIRS)
    assert n_new == 1 and teacher.scored == [(QUERIES[1], DOCUMENTS[0])]
    torch.testing.assert_close(log_odds, expected.log_odds, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(states, expected.states, atol=1e-5, rtol=1e-5)
    assert TeacherCache(teacher, tmp_path / "cache", store).scores(QUERIES, DOCUMENTS, PAIRS)[2] == 0
    assert TeacherCache(teacher, tmp_path / "cache").scores(QUERIES, DOCUMENTS, PAIRS)[2] == 2  # the store is no cache


def test_a_store_of_another_machine_serves_and_another_rerankers_does_not(teacher, tmp_path, monkeypatch):
    store = stored(teacher, tmp_path / "store")
    monkeypatch.setattr(teacher, "numerics", "torch/float16/cuda")
    assert TeacherCache(teacher, tmp_path / "cache", store).scores(QUERIES, DOCUMENTS, PAIRS)[2] == 0
    monkeypatch.setattr(teacher, "fingerprint", "another")
    assert TeacherCache(teacher, tmp_path / "cache", store).scores(QUERIES, DOCUMENTS, PAIRS)[2] == 3


def test_a_store_that_says_not_whose_it_is_is_named(teacher, tmp_path):
    place = Path(stored(teacher, tmp_path / "store").prepare(teacher))
    (place / IDENTITY).write_text("{}")
    with pytest.raises(InputError, match="reranker.json: says not whose scores these are"):
        TeacherCache(teacher, tmp_path / "cache", ScoreStore(tmp_path / "store"))


def test_a_store_in_object_storage_is_read_once(teacher, tmp_path, s3, monkeypatch):
    store = stored(teacher, f"{s3}/scores")
    first = TeacherCache(teacher, tmp_path / "cache", store).scores(QUERIES, DOCUMENTS, PAIRS)
    assert first[2] == 0 and len(list((tmp_path / "cache").rglob("*.safetensors"))) == 1
    monkeypatch.setattr(Folder, "read", lambda *args: pytest.fail("fetched again"))
    again = TeacherCache(teacher, tmp_path / "cache").scores(QUERIES, DOCUMENTS, PAIRS)
    torch.testing.assert_close(first, again, atol=0, rtol=0)


def test_object_storage_that_cannot_be_reached_is_one_line(teacher, tmp_path):
    with pytest.raises(InputError, match="ftp://nowhere/x: no kind of store"):
        TeacherCache(teacher, tmp_path, ScoreStore("ftp://nowhere/x"))


@pytest.fixture
def s3(monkeypatch):
    """A bucket of a server on this machine."""
    boto3, server = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    made = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    made.start()
    host, port = made.get_host_and_port()
    of_server = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in {**of_server, "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="scores")
    yield f"s3://scores/{port}"
    made.stop()
