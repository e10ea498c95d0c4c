import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rabtriever.scoring.calibration import Calibration
from rabtriever.scoring.predictor import Predictor
from rabtriever.training.calibrate import fit_calibrations
from rabtriever.training.encoded_data import EncodedData, EncodedQueries

PRIORS = st.builds(Calibration, st.floats(0.2, 5), st.floats(-5, 5))


@given(PRIORS)
def test_without_labels_or_against_the_log_odds_the_prior_stays(prior):
    assert Calibration.fit(np.array([1.0, 2.0]), np.array([False, False]), prior) == prior
    x = np.linspace(-5, 5, 1000)
    assert Calibration.fit(x, x < 0, prior) == prior


def test_a_few_labels_change_the_prior_little_and_many_replace_it():
    rng, made, prior = np.random.default_rng(0), Calibration(2.0, -3.0), Calibration(0.5, 2.0)
    log_odds = rng.normal(0, 4, 100_000)
    labels = rng.random(len(log_odds)) < made.probability(log_odds)
    fits = [Calibration.fit(log_odds[:n], labels[:n], prior) for n in (0, 5, 100, 100_000)]
    distances = [abs(fit.offset - prior.offset) for fit in fits]
    assert fits[0] == prior and distances == sorted(distances)
    assert fits[-1].temperature == pytest.approx(2.0, rel=0.05) and fits[-1].offset == pytest.approx(-3.0, abs=0.1)
    assert abs(fits[1].offset - Calibration.fit(log_odds[:5], labels[:5]).offset) > 0.5  # without it, towards 0


def data_set(n_queries, own=-1):
    torch.manual_seed(0)
    dev = EncodedQueries(
        [f"q{i}" for i in range(n_queries)],
        torch.randn(n_queries, 8),
        [[i % 20] for i in range(n_queries)],
        [own] * n_queries,
    )
    return EncodedData([f"d{i}" for i in range(20)], torch.randn(20, 8), dev, dev)


def test_the_teacher_scores_what_it_is_given_calls_for_and_no_query_itself():
    data, predictor = data_set(30, own=3), Predictor(8, 4, choice_direction=torch.randn(8)).eval()
    asked = []

    def score(pairs):
        asked.extend(map(tuple, pairs.tolist()))
        return np.array([5.0 if document == query % 20 else -5.0 for query, document in pairs.tolist()])

    priors = Calibration(2.0, 1.0), Calibration(3.0, 0.5)
    _, teacher = fit_calibrations(predictor, data, 20, 5, priors, score)
    assert len(asked) == len(set(asked)) == 5 * 10 and len({query for query, _ in asked}) == 5
    assert all(document != 3 for _, document in asked)
    assert teacher != priors[1]
    asked.clear()
    assert fit_calibrations(predictor, data, 20, 0, priors, score)[1] == priors[1] and not asked
    assert fit_calibrations(predictor, data, 0, 0, priors, score) == priors
    assert fit_calibrations(predictor, data_set(0), 20, 0, priors, score) == priors
