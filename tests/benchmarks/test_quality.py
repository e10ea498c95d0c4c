"""The experiments' own arithmetic, the ablations, and that every queued job names options that exist."""

import json
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from bm25 import BM25S
from quality import experiments
from quality.ablations import DIVERGENCES, POLICIES, documents_kl, forward_kl, make_distiller, vocabulary_kl
from quality.biencoder import Settings as BiEncoderSettings
from quality.jobs import Job, jobs
from quality.measuring import Bench, paired_test
from tiny import write_beir

from rabtriever.training.config import DistillConfig, RerankerTrainingConfig


@pytest.mark.parametrize("size", ["cpu", "gpu"])
def test_every_job_can_be_run(size):
    queue = jobs(size)
    made = {"tools"}
    for job in queue:
        options = job.options
        assert job.name not in made
        if job.kind == "teacher":
            RerankerTrainingConfig(**options["settings"])
        elif job.kind == "biencoder":
            BiEncoderSettings(**options["settings"])
        elif job.kind == "students":
            assert options["teacher"] in made
            for variant in options["variants"]:
                changes = {**options.get("settings", {}), **variant}
                assert changes.pop("policy", "on") in POLICIES
                assert changes.pop("divergence", None) in (None, *DIVERGENCES)
                assert changes.pop("pooling", "mean") in ("mean", "last")
                if system := changes.pop("system", None):
                    made.add(f"{job.name}/{system.replace(', ', '-').replace(' ', '-')}")
                DistillConfig(**changes).resolve(over_encoder=False)
        else:  # what is compared was made by an earlier job
            assert {options["teacher"], *options["students"].values(), options.get("biencoder", "tools")} <= made
        made.add(job.name)


def bench(tiny_data):
    return Bench(tiny_data, "test", None, 0)


def test_quality_of_a_perfect_and_of_a_reversed_ranking(tiny_data):
    some = bench(tiny_data)
    perfect = some.relevant.astype(float)
    assert some.quality(perfect)["R@1"] == 1 and (some.hits(perfect) == 1).all()
    assert some.quality(-perfect)["R@1"] == 0 and (some.hits(-perfect) == 0).all()
    assert some.absent(perfect) == 1.0  # the best score falls when the right document is gone
    assert some.agreement(perfect, perfect) == {"top1_agreement": 1.0, "pearson": 1.0, "pairs": 24}


def test_candidates_are_what_all_systems_rank(tiny_data):
    some = bench(tiny_data)
    some.restrict(-some.relevant.astype(float), 3)  # the right one is not among them
    assert some.candidates.sum(1).tolist() == [3] * 4
    assert some.quality(some.relevant.astype(float))["R@10"] == 0


def test_the_paired_test_tells_a_difference_from_noise():
    rng = np.random.default_rng(0)
    baseline = (rng.random(400) < 0.5).astype(float)
    better = np.where(rng.random(400) < 0.2, 1.0, baseline)
    assert paired_test(better, baseline) < 0.001
    assert paired_test(baseline, baseline) == 1.0
    shuffled = [paired_test(rng.permutation(baseline), baseline) for _ in range(20)]
    assert sum(p < 0.05 for p in shuffled) <= 5


QUICK = DistillConfig(
    teacher_calls=42,
    pairs_per_query=4,
    rounds=4,
    steps=400,
    hidden_units=16,
    learning_rate=1e-2,
    label_weight=0.0,
    log_odds_weight=0.0,
    kl_weight=1.0,
    calibration_queries=0,
)


@pytest.mark.parametrize(
    "kind", [*((policy, None) for policy in POLICIES), *(("on", divergence) for divergence in DIVERGENCES)]
)
def test_every_ablation_teaches(tiny_data, reranker, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path))
    distiller = make_distiller(reranker, QUICK, *kind)
    student = distiller.train(tiny_data)
    queries = list(tiny_data.labelled_queries("train").values())
    documents = [document.content for document in tiny_data.documents.values()]
    log_odds = student.similarity(student.encode_query(queries), student.encode_document(documents))
    assert np.corrcoef(log_odds.ravel(), reranker.log_odds(queries, documents).ravel())[0, 1] > 0.6
    pairs = distiller.targets.pairs
    assert len(pairs) == len(set(map(tuple, pairs.tolist()))) == distiller.cached_teacher.calls <= 42


def test_the_teachers_own_policy_pays_for_every_document_it_ranks(tiny_data, reranker, tmp_path, monkeypatch):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path))
    distiller = make_distiller(reranker, replace(QUICK, teacher_calls=20, steps=4), "teacher")
    distiller.train(tiny_data)
    assert distiller.cached_teacher.calls == 18  # three queries of six documents


class Student:
    """As much of a distiller as a divergence reads."""

    def __init__(self, predicted, target, lm_head):
        self.student = self.encoder = self.predictor = self.llm = self.loaded = self.model = self
        self.choice_direction, self.weight = lm_head[0] - lm_head[1], lm_head
        self.get_output_embeddings = lambda: self


def test_divergences_are_those_of_the_distributions():
    torch.manual_seed(0)
    z, target, lm_head = torch.randn(7, 8), torch.randn(7, 8), torch.randn(11, 8)
    query, student = torch.tensor([4, 9, 4, 4, 9, 0, 9]), Student(z, target, lm_head)
    made, wanted = (torch.distributions.Categorical(logits=states @ lm_head.T) for states in (z, target))
    expected = torch.distributions.kl_divergence(made, wanted).mean()
    torch.testing.assert_close(vocabulary_kl(student, z, target, query), expected)
    log_odds = [states @ student.choice_direction for states in (z, target)]
    choices = [torch.distributions.Bernoulli(logits=values) for values in log_odds]
    expected = torch.distributions.kl_divergence(choices[1], choices[0]).mean()
    torch.testing.assert_close(forward_kl(student, z, target, query), expected, rtol=1e-4, atol=1e-5)
    groups = [
        [torch.distributions.Categorical(logits=values[query == q]) for values in log_odds] for q in query.unique()
    ]
    expected = torch.stack([torch.distributions.kl_divergence(*group) for group in groups]).mean()
    torch.testing.assert_close(documents_kl(student, z, target, query), expected, rtol=1e-4, atol=1e-5)


def test_bm25s_finds_common_words_and_survives_texts_without_any():
    assert BM25S(["turns on the light", "finds a way"]).scores("a light in the dark").argmax() == 0
    assert BM25S(["the", "a"]).scores("the light").tolist() == [0, 0]


def test_students_are_made_measured_and_compared_and_a_finished_row_is_not_made_again(
    tiny_data, llm_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(experiments, "minilm_folder", lambda: None)
    write_beir(tmp_path / "tiny", tiny_data)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "teacher").symlink_to(llm_folder)
    args = Namespace(data=tmp_path, work=tmp_path / "work", out=tmp_path / "out", size="cpu")
    variants = [{"system": "retriever"}, {"policy": "bm25"}, {"divergence": "forward", "kl_weight": 1.0}]
    settings = {"teacher_calls": 20, "rounds": 2, "steps": 4, "hidden_units": 8}
    shape = {
        "tasks": ["tiny"],
        "teacher": "teacher",
        "settings": settings,
        "evaluate": [["tiny", "test", None, "teacher"]],
    }
    students = Job("students", "students", {**shape, "variants": variants})
    experiments.run(students, args)
    rows = json.loads(students.result(args).read_text())["rows"]
    assert students.done(args) and [row["system"] for row in rows] == ["retriever", "off-policy", "retriever"]
    assert [row["objective"] for row in rows[1:]] == [
        "1 MSE + 3 squares + 0.5 labels",
        "1 MSE + 1 KL (forward) + 0.5 labels",
    ]
    assert all(row["teacher_calls"] <= 20 and "pearson" in row for row in rows)
    monkeypatch.setattr(experiments, "make_distiller", lambda *args: pytest.fail("made again"))
    experiments.run(students, args)
    made = {"retriever": "students/retriever"}
    systems = Job("systems", "systems", {"task": "tiny", "split": "test", "teacher": "teacher", "students": made})
    experiments.run(systems, args)
    rows = {row["system"]: row for row in json.loads(systems.result(args).read_text())["rows"]}
    assert set(rows) == {"retriever", "bm25s", "reranker"} and rows["retriever"]["teacher_calls"] <= 20
    assert "ece_ten_raw" in rows["retriever"] and rows["bm25s"]["R@1"] == 1.0
