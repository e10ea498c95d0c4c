import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from rabtriever.errors import InputError
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.calibration import Calibration
from rabtriever.training import distillation as module
from rabtriever.training.config import DistillConfig
from rabtriever.training.distill import distill
from rabtriever.training.splits import split_queries

QUICK = DistillConfig(teacher_calls=40, pairs=4, rounds=4, steps=400, width=16, label_weight=0.0, learning_rate=1e-2)


@pytest.fixture(autouse=True)
def _here(reranker, tmp_path, monkeypatch):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(reranker, "calibration", Calibration())  # put back afterwards: all tests share this teacher
    monkeypatch.setattr(module.GenerativeReranker, "from_pretrained", classmethod(lambda cls, source: reranker))


def log_of(folder):
    return [json.loads(line) for line in (folder / "distill_log.jsonl").read_text().splitlines()]


def test_the_student_learns_its_teachers_log_odds(tiny_data, reranker, tmp_path):
    student = distill(tiny_data, "teacher", tmp_path / "out", QUICK)
    queries = list(tiny_data.labelled_queries("train").values())
    documents = [document.content for document in tiny_data.documents.values()]
    theirs = reranker.log_odds(queries, documents)
    mine = student.similarity(student.encode_query(queries), student.encode_document(documents))
    assert np.corrcoef(mine.ravel(), theirs.ravel())[0, 1] > 0.8
    log = log_of(tmp_path / "out")
    assert log[-1]["teacher_calls"] <= 40
    assert log[-1]["mse"] < 0.6 * log[0]["mse"]  # though its pairs are three times as many
    # A predictor that looks at the document beats one that averages it away.
    assert log[-1]["pair_error"] < log[-1]["mean_document"] and log[-1]["spread"] > 0
    expected = {
        "mse",
        "divergence",
        "teacher_calls",
        "dev_R@1",
        "copy_query",
        "mean_document",
        "spread",
        "fresh_pearson",
    }
    assert expected <= set(log[-1])


def test_labels_teach_what_the_teacher_does_not_know(tiny_data, tmp_path):
    settings = replace(QUICK, label_weight=5.0, kl_weight=0.0)
    student = distill(tiny_data, "teacher", tmp_path / "out", settings)
    judged = tiny_data.labelled_queries("train")
    documents = [document.content for document in tiny_data.documents.values()]
    best = student.similarity(student.encode_query(list(judged.values())), student.encode_document(documents)).argmax(1)
    right = [list(tiny_data.documents)[i] in tiny_data.qrels["train"][q] for i, q in zip(best, judged, strict=True)]
    assert sum(right) >= len(right) - 1  # one query is held out as dev


@pytest.mark.parametrize(
    "change",
    [
        {"predictor": "quadratic"},
        {"divergence": "forward"},
        {"divergence": "vocabulary"},
        {"divergence": "documents"},
        {"divergence": "squares"},
        {"policy": "uniform"},
        {"policy": "bm25"},
        {"policy": "teacher", "teacher_calls": 42},
        {"kl_weight": 0.0},
    ],
    ids=lambda change: "-".join(map(str, change.values())),
)
def test_every_objective_and_policy_teaches(tiny_data, reranker, tmp_path, change):
    student = distill(tiny_data, "teacher", tmp_path / "out", replace(QUICK, **change))
    queries = list(tiny_data.labelled_queries("train").values())
    documents = [document.content for document in tiny_data.documents.values()]
    mine = student.similarity(student.encode_query(queries), student.encode_document(documents))
    assert np.corrcoef(mine.ravel(), reranker.log_odds(queries, documents).ravel())[0, 1] > 0.7
    loaded = Rabtriever.from_pretrained(tmp_path / "out")
    assert loaded.fingerprint == student.fingerprint and loaded.predictor.kind == student.predictor.kind


def test_labels_alone_need_no_teacher_call(tiny_data, reranker, tmp_path, monkeypatch):
    monkeypatch.setattr(type(reranker), "context_embeddings", lambda *args: pytest.fail("the teacher was asked"))
    distill(tiny_data, "teacher", tmp_path / "out", replace(QUICK, teacher_calls=0, label_weight=1.0))
    log = log_of(tmp_path / "out")
    assert log[-1]["teacher_calls"] == 0 and log[-1]["label_loss"] < 0.1
    with pytest.raises(InputError, match="nothing to learn from"):
        DistillConfig(teacher_calls=0, label_weight=0.0)


def test_the_teachers_own_policy_pays_for_every_document_it_ranks(tiny_data, tmp_path):
    distill(tiny_data, "teacher", tmp_path / "out", replace(QUICK, policy="teacher", teacher_calls=20))
    assert log_of(tmp_path / "out")[-1]["teacher_calls"] == 18  # three queries of six documents


def test_calibration_is_fitted_saved_and_never_part_of_the_fingerprint(tiny_data, tmp_path):
    tiny_data.qrels["dev"] = tiny_data.qrels.pop("test")
    labelled = replace(QUICK, label_weight=5.0)
    fitted = distill(tiny_data, "teacher", tmp_path / "fitted", labelled)
    plain = distill(tiny_data, "teacher", tmp_path / "plain", replace(labelled, calibration=0))
    assert plain.calibration == Calibration()
    assert fitted.calibration != Calibration() and fitted.fingerprint == plain.fingerprint
    loaded = Rabtriever.from_pretrained(tmp_path / "fitted")
    assert loaded.calibration == fitted.calibration


def test_no_llm_weight_moves(tiny_data, reranker, tmp_path):
    before = {name: weight.clone() for name, weight in reranker.llm.model.state_dict().items()}
    distill(tiny_data, "teacher", tmp_path / "out", QUICK)
    for name, weight in reranker.llm.model.state_dict().items():
        torch.testing.assert_close(weight, before[name], atol=0, rtol=0)


def test_works_without_qrels(tiny_data, reranker, tmp_path):
    tiny_data.qrels.clear()
    student = distill(tiny_data, "teacher", tmp_path / "out", QUICK)
    assert "dev_R@1" not in log_of(tmp_path / "out")[-1]
    queries = list(tiny_data.queries.values())
    documents = [document.content for document in tiny_data.documents.values()]
    mine = student.similarity(student.encode_query(queries), student.encode_document(documents))
    assert np.corrcoef(mine.ravel(), reranker.log_odds(queries, documents).ravel())[0, 1] > 0.8


@pytest.mark.parametrize("calls", [1, 10, 1000])
def test_no_pair_is_bought_twice_and_no_budget_is_too_small_or_large(tiny_data, tmp_path, calls):
    distill(tiny_data, "teacher", tmp_path / "out", replace(QUICK, teacher_calls=calls, pairs=3, rounds=12))
    last = log_of(tmp_path / "out")[-1]
    assert last["teacher_calls"] == last["new_teacher_calls"] == min(calls, 7 * 6)  # all pairs: 7 queries, 6 documents


def test_what_was_paid_for_is_not_asked_again(tiny_data, reranker, tmp_path, monkeypatch):
    first = distill(tiny_data, "teacher", tmp_path / "first", QUICK)
    monkeypatch.setattr(type(reranker), "context_embeddings", lambda *args: pytest.fail("asked again"))
    second = distill(tiny_data, "teacher", tmp_path / "second", QUICK)
    assert second.fingerprint == first.fingerprint  # cached teacher = live teacher, and the seed decides the rest
    assert log_of(tmp_path / "second")[-1]["new_teacher_calls"] == 0


def test_held_out_queries_are_never_trained_on(tiny_data):
    train, dev = split_queries(tiny_data.with_dev(), QUICK)
    assert dev and not set(train) & set(dev) and not set(train) & set(tiny_data.qrels["test"])
    tiny_data.qrels.pop("train")
    train, dev = split_queries(tiny_data, QUICK)
    assert not dev and set(train) == set(tiny_data.queries) - set(tiny_data.qrels["test"])


def test_the_saved_student_is_the_live_one(tiny_data, tmp_path, monkeypatch, llm_folder):
    live = distill(tiny_data, "teacher", tmp_path / "out", QUICK)
    monkeypatch.undo()
    loaded = Rabtriever.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert loaded.fingerprint == live.fingerprint
    assert (
        GenerativeReranker.from_pretrained(tmp_path / "out", dtype=torch.float32).fingerprint
        == live.teacher.fingerprint
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("policy", "maybe"),
        ("pooling", "max"),
        ("predictor", "cubic"),
        ("divergence", "none"),
        ("teacher_calls", -1),
        ("exploration", 2.0),
        ("temperature", 0.0),
    ],
)
def test_bad_settings_are_named(field, value):
    with pytest.raises(InputError, match=field):
        DistillConfig(**{field: value})


def test_an_existing_folder_is_left_alone(tiny_data, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists already"):
        distill(tiny_data, "teacher", tmp_path / "out", QUICK)
