import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rabtriever.errors import InputError
from rabtriever.scoring.calibration import Calibration


def labelled(temperature, offset, n=200_000, mean=0.0):
    """Log-odds and labels drawn with the probabilities of a calibration."""
    rng = np.random.default_rng(0)
    log_odds = rng.normal(mean, 4, n)
    return log_odds, rng.random(n) < Calibration(temperature, offset).probability(log_odds)


@pytest.mark.parametrize(("temperature", "offset"), [(1.0, 0.0), (2.5, -3.0), (0.5, 1.0)])
def test_the_scaling_that_made_the_labels_is_found(temperature, offset):
    fitted = Calibration.fit(*labelled(temperature, offset))
    assert fitted.temperature == pytest.approx(temperature, rel=0.1) and fitted.offset == pytest.approx(offset, abs=0.2)


@pytest.mark.parametrize(("temperature", "offset", "mean"), [(2.0, -3.0, 3.0), (3.0, -3.0, 3.0), (3.0, -4.0, 5.0)])
def test_the_fit_converges_where_plain_newton_steps_swing(temperature, offset, mean):
    fitted = Calibration.fit(*labelled(temperature, offset, 20_000, mean))
    assert fitted.temperature == pytest.approx(temperature, rel=0.1) and fitted.offset == pytest.approx(offset, abs=0.2)


def test_fitted_probabilities_are_the_frequencies():
    log_odds, labels = labelled(3.0, -2.0)
    p = Calibration.fit(log_odds, labels).probability(log_odds)
    for low in np.arange(0, 1, 0.1):
        bin_ = (p >= low) & (p < low + 0.1)
        assert abs(p[bin_].mean() - labels[bin_].mean()) < 0.05
    raw = Calibration().probability(log_odds)
    sure = raw > 0.9
    assert raw[sure].mean() - labels[sure].mean() > 0.2  # unfitted, they do not


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=20), st.integers(0, 2**20))
@example([0.0, 0.0], 1)
def test_a_fit_never_changes_a_ranking_and_is_always_finite(log_odds, bits):
    labels = np.array([bits >> i & 1 for i in range(len(log_odds))], dtype=bool)
    fitted = Calibration.fit(np.array(log_odds), labels)
    assert fitted.temperature > 0 and np.isfinite([fitted.temperature, fitted.offset]).all()


def test_labels_of_one_kind_or_against_the_log_odds_change_nothing():
    assert Calibration.fit(np.array([1.0, 2.0]), np.array([True, True])) == Calibration()
    assert Calibration.fit(np.array([]), np.array([])) == Calibration()
    x = np.linspace(-5, 5, 1000)
    assert Calibration.fit(x, x < 0) == Calibration()


CALIBRATIONS = st.builds(Calibration, st.floats(0.1, 10), st.floats(-5, 5))


@given(st.lists(st.floats(-20, 20), max_size=10), CALIBRATIONS, CALIBRATIONS)
def test_converted_log_odds_have_the_same_probability(log_odds, source, target):
    converted = target.convert(np.array(log_odds), source)
    assert converted.dtype == np.float32 and converted.shape == (len(log_odds),)
    np.testing.assert_allclose(
        target.probability(converted), source.probability(np.array(log_odds)), atol=1e-5, rtol=1e-4
    )
    np.testing.assert_allclose(source.convert(converted, target), log_odds, atol=1e-3, rtol=1e-4)


def test_a_ranking_is_by_log_odds_and_ties_keep_their_order():
    calibration, log_odds = Calibration(2.0, -1.0), np.array([0.0, 3.0, 0.0, -1.0], np.float32)
    ranking = calibration.rank(log_odds)
    assert [hit["corpus_id"] for hit in ranking] == [1, 0, 2, 3]
    assert [hit["score"] for hit in ranking] == calibration.probability(log_odds)[[1, 0, 2, 3]].tolist()
    assert calibration.rank(log_odds, 2) == ranking[:2] and calibration.rank(log_odds[:0]) == []
    with pytest.raises(InputError, match="top_k 0: ask for at least one"):
        calibration.rank(log_odds, 0)


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
