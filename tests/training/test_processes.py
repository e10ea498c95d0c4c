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
from training.in_processes import FEW_STEPS, STEPS, make_data, run_all, train

from rabtriever import cli
from rabtriever.errors import InputError, StorageError
from rabtriever.rerankers.remote.reranker import RemoteReranker
from rabtriever.retriever import Rabtriever
from rabtriever.training import processes
from rabtriever.training import teacher_cache as module
from rabtriever.training.batches import BatchDataset
from rabtriever.training.config import RerankerTrainingConfig
from rabtriever.training.distill import distill
from rabtriever.training.losses import dpo, listwise, pointwise
from rabtriever.training.start import Start
from rabtriever.training.teacher_cache import TeacherCache, _divide
from rabtriever.training.train_reranker import train_reranker
from rabtriever.training.tune_encoder import dropout_seed

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


@pytest.mark.parametrize(("objective", "steps"), [("listwise", STEPS), ("dpo", FEW_STEPS), ("student", FEW_STEPS)])
def test_a_reranker_learns_the_same(runs, objective, steps):
    alone, both, found, (first, second), _ = runs
    expected, got = losses(found[objective]), losses(first[objective])
    assert len(expected) == steps
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
    assert done.stderr.count('"hard_negatives/R@1"') == 3  # listwise, student, the one that was cut


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
    files = sorted(cache.glob("states/*/*.safetensors"))
    return {
        folder: sum(len(load_file(file)["keys"]) for file in files if file.parent.name == folder)
        for folder in {file.parent.name for file in files}
    }


@pytest.mark.parametrize("rank", [0, 1])
def test_bad_input_is_said_by_the_first_process_while_others_wait(rank, monkeypatch, tmp_path, capsys):
    several(monkeypatch, rank)
    slept = []
    monkeypatch.setattr(processes.time, "sleep", slept.append)
    write_beir(tmp_path / "beir", make_data())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "something").touch()
    assert cli.main(["train", str(tmp_path / "beir"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.err.count("exists already; give another folder or remove it") == 1 and not said.out
    assert slept == [processes.GRACE_SECONDS] * rank  # then the launcher has ended it, as the next test shows


def test_a_fault_of_another_process_ends_all(llm_folder, tmp_path):
    script = Path(__file__).with_name("in_processes.py")
    done = launch(script, "fault", llm_folder, tmp_path)
    assert done.returncode and not done.stdout  # the launcher's own code is 1
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
    items = [(i,) for i in range(len(groups))]
    shares = _divide(items, lambda item: groups[item[0]], n)
    assert sorted(item for share in shares for item in share) == items
    homes = [{groups[i] for (i,) in share} for share in shares]
    assert sum(map(len, homes)) == len(set(groups))
    assert max(map(len, shares)) - min(map(len, shares)) <= max(map(groups.count, groups), default=0)


def test_one_process_asks_a_remote_teacher(monkeypatch, tmp_path, reranker):
    monkeypatch.setattr(processes, "count", lambda: 2)
    cache = TeacherCache(reranker, tmp_path)
    remote = TeacherCache(reranker, tmp_path)
    remote.model = object.__new__(RemoteReranker)
    items = [(0, 1), (1, 1)]
    for rank, asked in enumerate([items, []]):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        assert cache._share(items, lambda item: item[0]) == [items[rank]]
        assert remote._share(items, lambda item: item[0]) == asked


@pytest.mark.parametrize("is_remote", [False, True])
def test_what_another_process_asks_for_alone_is_made_in_a_second_round(monkeypatch, tmp_path, teacher, is_remote):
    """Two processes, of which the second is played: it lacks a pair that this one does not ask for."""
    queries, documents = ["rain", "show music"], ["find the weather", "a recipe"]
    cache, other = TeacherCache(teacher, tmp_path), [(1, 1)]
    if is_remote:
        monkeypatch.setattr(module, "RemoteReranker", type(teacher))
    several(monkeypatch, 0)
    monkeypatch.setattr(processes, "agree", lambda value: value)
    played = iter([[], None, other, [], None])  # what it makes and finds in both rounds, and asks for between them
    monkeypatch.setattr(processes, "together", lambda function: [function(), next(played)])
    monkeypatch.setattr(module, "_divide", lambda items, group, n: [items, []])
    _, _, n_new = cache.scores(queries, documents, torch.tensor([[0, 0]]))
    assert n_new == 2 and teacher.scored == [("rain", "find the weather"), ("show music", "a recipe")]
    assert len(cache._own) == 2 and next(played, "done") == "done"


def test_a_file_of_another_machine_is_a_fault(monkeypatch, tmp_path):
    several(monkeypatch, 1)
    seen = tmp_path / "seen"
    seen.touch()
    for path in (seen, tmp_path / "unseen"):  # the first process has both
        monkeypatch.setattr(processes, "first", lambda function, path=path: [path])
        monkeypatch.setattr(processes, "together", lambda function: [function()])
        if path == seen:
            assert processes.shared(list) == [seen]
        else:
            with pytest.raises(StorageError, match="another process made it, this one does not see it"):
                processes.shared(list)


def test_each_process_takes_its_gpu_before_it_loads_a_model(monkeypatch, tmp_path):
    several(monkeypatch, 1)
    done, stopped = [], RuntimeError("stopped here")

    def load(*_, **__):
        done.append("load")
        raise stopped

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: done.append(device))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: done.append("connect"))
    monkeypatch.setattr("rabtriever.training.distill.load_teachers", load)
    monkeypatch.setattr(Start, "of", load)
    monkeypatch.setattr(processes, "_connect", processes._connect.__wrapped__)  # each call is another process's
    for call in (
        lambda device: distill(make_data(), "tools", tmp_path / "out", device=device),
        lambda device: train_reranker(make_data(), tmp_path / "out", device=device),
    ):
        for device in (None, "cuda"):
            done.clear()
            with pytest.raises(RuntimeError, match="stopped here"):
                call(device)
            assert done == [1, "connect", "load"]
        with pytest.raises(InputError, match="device cuda:0: 2 processes would share it"):
            call("cuda:0")


def several(monkeypatch, rank):
    """Makes this process one of two, as a launcher would."""
    for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))


def test_processes_draw_their_own_dropout(monkeypatch):
    """In the tuning of an encoder: no seed twice, whatever the step and process."""
    monkeypatch.setattr(processes, "count", lambda: 3)
    seeds = []
    for rank in range(3):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        seeds += [dropout_seed(7, step) for step in range(50)]
    assert len(set(seeds)) == 150


def test_a_single_process_connects_to_nothing(monkeypatch):
    monkeypatch.setattr(processes, "_connect", None)
    weight = torch.nn.Parameter(torch.ones(2))
    assert processes.together(lambda: 3) == [3] and processes.first(lambda: 4) == 4 and processes.agree("x") == "x"
    assert processes.mean({"a": 1.5}) == {"a": 1.5} and processes.join_rows(weight) is weight
    processes.sum_gradients([weight])
    processes.start("cuda:1")
    assert processes.shared(lambda: [Path("a")] * 0) == []
    processes.wait()
    assert weight.grad is None
