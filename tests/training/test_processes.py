import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny import write_beir
from training.in_processes import make_data, run_all, train

from rabtriever.errors import StorageError
from rabtriever.rerankers.remote.reranker import RemoteReranker
from rabtriever.retriever import Rabtriever
from rabtriever.training import processes
from rabtriever.training.batches import BatchDataset
from rabtriever.training.config import OBJECTIVES, RerankerTrainingConfig
from rabtriever.training.losses import dpo, listwise, pointwise
from rabtriever.training.teacher_cache import TeacherCache, _divide

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "deploy" / "accelerate"
TOLERANCE = 1e-4  # of losses between 0.1 and 3, after 20 steps of float32 in another order


def launch(*arguments, config="cpu.yaml", timeout=400):
    """Runs something in two processes as users do."""
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", str(CONFIGS / config), "--main_process_port", "0"]  # any that is free
    command += map(str, arguments)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def runs(llm_folder, tmp_path_factory):
    """What one process and two found, each in a folder with a cache of its own."""
    alone, both = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("both")
    done = launch(Path(__file__).with_name("in_processes.py"), "all", llm_folder, both)
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RABTRIEVER_CACHE", str(alone / "cache"))
        found = run_all(str(llm_folder), alone)
    return alone, both, found, [json.loads((both / f"found-{rank}.json").read_text()) for rank in (0, 1)], done


def adapter_of(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def losses(found):
    return np.array([step["loss"] for step in found["losses"] if "loss" in step])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_reranker_learns_the_same(runs, objective):
    alone, both, found, (first, second), _ = runs
    expected, got = losses(found[objective]), losses(first[objective])
    assert len(expected) == 20
    np.testing.assert_allclose(got, expected, atol=TOLERANCE)
    assert not second[objective]["losses"]  # the first process alone logs
    assert second[objective]["fingerprint"] == first[objective]["fingerprint"]  # each returns what was written
    mine, theirs = adapter_of(alone / objective), adapter_of(both / objective)
    for name, weight in mine.items():
        torch.testing.assert_close(theirs[name], weight, atol=1e-3, rtol=1e-3)
    assert not (both / f"{objective}.partial").exists()


def test_a_log_has_each_line_once(runs):
    both, done = runs[1], runs[-1]
    log = [json.loads(line) for line in (both / "listwise" / "train_log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "loss" in line] == list(range(1, 21))
    assert done.stderr.count('"hard_negatives/R@1"') == 6  # as many trainings, each mined once


def test_a_student_learns_in_the_loop(runs):
    alone, both = losses(runs[2]["student"]), losses(runs[3][0]["student"])
    assert len(both) == 20 and np.isfinite(both).all()
    assert both[-5:].mean() < both[:5].mean()
    assert abs(both[0] - alone[0]) < 0.2 * alone[0]  # dropout draws otherwise, and correlations are of shares


def test_an_interrupted_training_resumes_in_any_number_of_processes(runs, llm_folder):
    _, both, found, (first, _), _ = runs
    expected = losses(found["listwise"])
    np.testing.assert_allclose(losses(first["resumed"]), expected[8:], atol=TOLERANCE)  # in two, from step 8
    assert (both / "cut-here-resumed-there.partial" / "checkpoint-8").is_dir()
    resumed = train(str(llm_folder), both / "cut-here-resumed-there")
    np.testing.assert_allclose(losses(resumed), expected[8:], atol=TOLERANCE)


def test_an_llm_in_shards_learns_the_same(runs, llm_folder, tmp_path):
    script = Path(__file__).with_name("in_processes.py")
    done = launch(script, "fsdp", llm_folder, tmp_path, config="fsdp.yaml")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cut-here-resumed-there.partial" / "checkpoint-8" / "pytorch_model_fsdp.bin").is_file()
    got = json.loads((tmp_path / "found-0.json").read_text())["resumed"]
    np.testing.assert_allclose(losses(got), losses(runs[2]["listwise"])[8:], atol=TOLERANCE)
    mine, theirs = adapter_of(runs[0] / "listwise"), adapter_of(tmp_path / "resumed")
    for name, weight in mine.items():
        torch.testing.assert_close(theirs[name], weight, atol=1e-3, rtol=1e-3)


def test_a_distillation_divides_the_calls_and_learns_the_same(runs):
    alone, both, found, (first, second), _ = runs
    total, shares = found["distill"]["scored"], (first["distill"]["scored"], second["distill"]["scored"])
    assert sum(shares) == total and max(shares) <= 0.6 * total
    assert vectors_in(alone / "cache") == vectors_in(both / "cache")  # each vector once
    assert len(first["distill"]["losses"]) == len(found["distill"]["losses"]) and not second["distill"]["losses"]
    for got, expected in zip(first["distill"]["losses"], found["distill"]["losses"], strict=True):
        assert got == pytest.approx(expected, abs=TOLERANCE)
    data = make_data()
    queries, documents = list(data.queries.values()), [document.content for document in data.documents.values()]
    expected, got = (
        model.similarity(model.encode_query(queries), model.encode_document(documents))
        for model in map(Rabtriever.from_pretrained, (alone / "distill", both / "distill"))
    )
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_an_encoder_is_tuned_the_same(runs):
    _, both, found, (first, second), _ = runs
    assert any("encoder/loss" in step for step in first["tuned"]["losses"])
    for got, expected in zip(first["tuned"]["losses"], found["tuned"]["losses"], strict=True):
        assert got == pytest.approx(expected, abs=TOLERANCE)
    np.testing.assert_allclose(first["tuned"]["states"], found["tuned"]["states"], atol=1e-4)
    assert first["tuned"]["states"] == second["tuned"]["states"] and not (both / "tuned.partial").exists()


def vectors_in(cache):
    """The number of vectors of each model in a cache."""
    shards = sorted(cache.glob("states/*/*.safetensors"))
    return {
        folder: sum(len(load_file(shard)["keys"]) for shard in shards if shard.parent.name == folder)
        for folder in {shard.parent.name for shard in shards}
    }


def test_bad_input_is_one_line_and_ends_all(tmp_path):
    write_beir(tmp_path / "beir", make_data())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "something").touch()
    done = launch("-m", "rabtriever.cli", "train", tmp_path / "beir", "--out", tmp_path / "out")
    assert done.returncode and done.stderr.count("exists already; give another folder or remove it") == 1
    assert "exitcode  : 2" in done.stderr and not done.stdout  # the launcher's own code is 1


def test_a_fault_of_another_process_ends_all(llm_folder, tmp_path):
    script = Path(__file__).with_name("in_processes.py")
    done = launch(script, "fault", llm_folder, tmp_path)
    assert done.stderr.count("rabtriever distill: process 1: teacher: gone; ask later") == 1
    assert "exitcode  : 2" in done.stderr and "Traceback" not in done.stderr.split("exitcode")[0]
    assert not (tmp_path / "fault").exists()


@given(n=st.integers(1, 30), step=st.integers(0, 5))
def test_shares_of_a_batch_weigh_as_the_whole(n, step):
    config = RerankerTrainingConfig(steps=6, documents_per_step=6, queries_per_step=9)
    batch = BatchDataset(make_data(), config, {})[step]
    shared = BatchDataset(make_data(), config, {}, processes=n)
    assert len(shared) == 6 * n
    log_odds = torch.randn(batch.scored.shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    log_odds_of = {
        (query, document): log_odds[i, j]
        for i, query in enumerate(batch.queries)
        for j, document in enumerate(batch.documents)
    }
    means = torch.zeros(3, dtype=torch.float64)
    seen = []
    for share in (shared[step * n + rank] for rank in range(n)):
        own = torch.stack([torch.stack([log_odds_of[q, d] for d in share.documents]) for q in share.queries])
        means += losses_of(own, share) / n
        seen += share.queries if share.query_weight else []
        assert share.scored.any(0).all() or n == 1  # no document is read in vain
    assert sorted(seen) == sorted(batch.queries)
    torch.testing.assert_close(means, losses_of(log_odds, batch))


def losses_of(log_odds, batch):
    scored, positive = log_odds[batch.scored], batch.positive[batch.scored]
    lists = listwise(log_odds.masked_fill(~batch.scored, float("-inf")), batch.positive)
    pairs = pointwise(scored, positive), dpo(scored, 0.5 * scored, positive)
    return torch.stack([batch.query_weight * lists, *(batch.pair_weight * loss for loss in pairs)])


@given(groups=st.lists(st.integers(0, 9), max_size=60), n=st.integers(1, 5))
def test_shares_keep_groups_together(groups, n):
    shares = _divide(list(range(len(groups))), groups, n)
    assert sorted(i for share in shares for i in share) == list(range(len(groups)))
    homes = [{groups[i] for i in share} for share in shares]
    assert sum(map(len, homes)) == len(set(groups))
    assert max(map(len, shares)) - min(map(len, shares)) <= max(map(groups.count, groups), default=0)


def test_one_process_asks_a_remote_teacher(monkeypatch, tmp_path, reranker):
    monkeypatch.setattr(processes, "count", lambda: 2)
    cache = TeacherCache(reranker, tmp_path)
    remote = TeacherCache(reranker, tmp_path)
    remote.model = object.__new__(RemoteReranker)
    for rank, (divided, asked) in enumerate([([1], [1, 2]), ([2], [])]):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        assert cache._share([1, 2], [0, 1, 2]) == divided and remote._share([1, 2], [0, 1, 2]) == asked


def test_a_file_of_another_machine_is_a_fault(tmp_path):
    with pytest.raises(StorageError, match="another process made it, this one does not see it"):
        processes.require_shared(tmp_path / "there")


def test_a_single_process_connects_to_nothing(monkeypatch):
    monkeypatch.setattr(processes, "_connect", None)
    weight = torch.nn.Parameter(torch.ones(2))
    assert processes.together(lambda: 3) == [3] and processes.first(lambda: 4) == 4 and processes.agree("x") == "x"
    assert processes.mean({"a": 1.5}) == {"a": 1.5} and processes.join_rows(weight) is weight
    processes.sum_gradients([weight])
    processes.wait()
    assert weight.grad is None
