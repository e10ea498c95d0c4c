import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rabtriever.errors import InputError
from rabtriever.scoring.calibration import Calibration


def labelled_queries(temperature, offset, n=200_000, mean=0.0):
    chance = np.random.default_rng(0)
    log_odds = chance.normal(mean, 4, n)
    return log_odds, chance.random(n) < Calibration(temperature, offset).probability(log_odds)


@pytest.mark.parametrize(("temperature", "offset"), [(1.0, 0.0), (2.5, -3.0), (0.5, 1.0)])
def test_the_scaling_that_made_the_judgements_is_found(temperature, offset):
    fitted = Calibration.fit(*judged(temperature, offset))
    assert fitted.temperature == pytest.approx(temperature, rel=0.1) and fitted.offset == pytest.approx(offset, abs=0.2)


@pytest.mark.parametrize(("temperature", "offset", "mean"), [(2.0, -3.0, 3.0), (3.0, -3.0, 3.0), (3.0, -4.0, 5.0)])
def test_the_fit_converges_where_plain_newton_steps_swing(temperature, offset, mean):
    fitted = Calibration.fit(*judged(temperature, offset, 20_000, mean))
    assert fitted.temperature == pytest.approx(temperature, rel=0.1) and fitted.offset == pytest.approx(offset, abs=0.2)


def test_fitted_probabilities_mean_what_they_say():
    log_odds, right = judged(3.0, -2.0)
    p = Calibration.fit(log_odds, right).probability(log_odds)
    for low in np.arange(0, 1, 0.1):
        bin_ = (p >= low) & (p < low + 0.1)
        assert abs(p[bin_].mean() - right[bin_].mean()) < 0.05
    raw = Calibration().probability(log_odds)
    sure = raw > 0.9
    assert raw[sure].mean() - right[sure].mean() > 0.2  # unfitted, they do not


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=20), st.integers(0, 2**20))
@example([0.0, 0.0], 1)
def test_a_fit_never_changes_a_ranking_and_is_always_finite(log_odds, bits):
    right = np.array([bits >> i & 1 for i in range(len(log_odds))], dtype=bool)
    fitted = Calibration.fit(np.array(log_odds), right)
    assert fitted.temperature > 0 and np.isfinite([fitted.temperature, fitted.offset]).all()


def test_judgements_of_one_kind_or_that_point_the_other_way_leave_it_as_it_is():
    assert Calibration.fit(np.array([1.0, 2.0]), np.array([True, True])) == Calibration()
    assert Calibration.fit(np.array([]), np.array([])) == Calibration()
    x = np.linspace(-5, 5, 1000)
    assert Calibration.fit(x, x < 0) == Calibration()


def test_rank_orders_by_probability_and_keeps_ties_in_order():
    calibration, log_odds = Calibration(2.0, -1.0), np.array([0.5, 3.0, 0.5, -4.0], np.float32)
    ranked = calibration.rank(log_odds)
    assert [row["corpus_id"] for row in ranked] == [1, 0, 2, 3] and calibration.rank(log_odds, 2) == ranked[:2]
    assert [row["score"] for row in ranked] == calibration.probability(log_odds[[1, 0, 2, 3]]).tolist()
    assert calibration.rank(np.empty(0, np.float32)) == []
    with pytest.raises(InputError, match="top_k 0"):
        calibration.rank(log_odds, 0)
