"""The experiments' own arithmetic, and that every queued job still names settings that exist."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from quality.biencoder import Settings as BiEncoderSettings
from quality.jobs import jobs
from quality.measuring import Bench, expected_calibration_error, paired_test

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
                if system := changes.pop("system", None):
                    made.add(f"{job.name}/{system.replace(', ', '-').replace(' ', '-')}")
                DistillConfig(**changes)
        else:  # what is compared was made by an earlier job
            assert {options["teacher"], *options["students"].values(), options.get("biencoder", "tools")} <= made
        made.add(job.name)


def bench(tiny_data):
    return Bench(tiny_data, "test", None, 0)


def test_quality_of_a_perfect_and_of_a_reversed_ranking(tiny_data):
    some = bench(tiny_data)
    perfect = some.right.astype(float)
    assert some.quality(perfect)["R@1"] == 1 and (some.hits(perfect) == 1).all()
    assert some.quality(-perfect)["R@1"] == 0 and (some.hits(-perfect) == 0).all()
    assert some.absent(perfect) == 1.0  # the best score falls when the right document is gone
    assert some.agreement(perfect, perfect) == {"top1_agreement": 1.0, "pearson": 1.0, "pairs": 24}


def test_candidates_are_what_all_systems_rank(tiny_data):
    some = bench(tiny_data)
    some.restrict(-some.right.astype(float), 3)  # the right one is not among them
    assert some.candidates.sum(1).tolist() == [3] * 4
    assert some.quality(some.right.astype(float))["R@10"] == 0


def test_calibration_error_of_honest_and_of_boastful_probabilities():
    chance = np.random.default_rng(0)
    p = chance.random(100_000)
    right = chance.random(100_000) < p
    assert expected_calibration_error(p, right) < 0.01
    assert expected_calibration_error(np.full(1000, 0.9), np.arange(1000) < 500) == pytest.approx(0.4, abs=1e-6)


def test_the_paired_test_tells_a_difference_from_noise():
    chance = np.random.default_rng(0)
    theirs = (chance.random(400) < 0.5).astype(float)
    better = np.where(chance.random(400) < 0.2, 1.0, theirs)
    assert paired_test(better, theirs) < 0.001
    assert paired_test(theirs, theirs) == 1.0
    shuffled = [paired_test(chance.permutation(theirs), theirs) for _ in range(20)]
    assert sum(p < 0.05 for p in shuffled) <= 5
