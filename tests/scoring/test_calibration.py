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


def lists(competition, n_queries=4000, n=10):
    """Lists of log-odds, and which documents are right: one or none of a list, or each by itself."""
    rng, made = np.random.default_rng(0), Calibration(2.0, -1.0, competition)
    log_odds = rng.normal(0, 4, (n_queries, n)).astype(np.float32)
    shares = made.list_probability(log_odds)
    if not competition:
        return made, log_odds, rng.random(log_odds.shape) < shares
    right = (rng.random((n_queries, 1)) > shares.cumsum(1)).sum(1)
    return made, log_odds, right[:, None] == np.arange(n)


@pytest.mark.parametrize("competition", [0.0, 1.0])
def test_lists_say_whether_documents_compete(competition):
    made, log_odds, labels = lists(competition)
    fitted = Calibration.fit(log_odds, labels)
    assert fitted.competition == pytest.approx(competition, abs=0.1)
    first = log_odds.argmax(1)[:, None]
    p, right = (np.take_along_axis(values, first, 1)[:, 0] for values in (fitted.list_probability(log_odds), labels))
    for part in np.array_split(np.argsort(p), 5):
        assert abs(p[part].mean() - right[part].mean()) < 0.05  # of first hits too
    apart = Calibration.fit(log_odds.ravel(), labels.ravel())
    assert apart.competition == 0
    if competition:
        assert right.mean() - apart.probability(np.take_along_axis(log_odds, first, 1)).mean() > 0.05


def test_places_without_a_document_count_for_nothing():
    _, log_odds, labels = lists(1.0, 200)
    wider = np.concatenate([log_odds, np.full((200, 3), -np.inf, np.float32)], axis=1)
    padded = np.concatenate([labels, np.ones((200, 3), bool)], axis=1)
    assert Calibration.fit(wider, padded) == Calibration.fit(log_odds, labels)


COMPETING = st.builds(Calibration, st.floats(0.1, 10), st.floats(-5, 5), st.floats(0, 1))
LISTS = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=30)


@given(LISTS, COMPETING)
def test_competition_never_changes_a_ranking(log_odds, calibration):
    ranked = np.sort(log_odds)[::-1]
    p = calibration.list_probability(ranked)
    assert (np.diff(p) <= 1e-12).all() and ((0 <= p) & (p <= 1)).all()
    np.testing.assert_array_equal(calibration.list_probability(ranked[::-1]), p[::-1])  # whatever the order
    np.testing.assert_allclose(calibration.list_probability(ranked[:1]), calibration.probability(ranked[0]))
    assert (p <= calibration.probability(ranked) + 1e-12).all()


@given(LISTS, st.floats(0.1, 10), st.floats(-5, 5))
def test_full_competition_is_a_softmax_with_none_of_them(log_odds, temperature, offset):
    values = np.unique(log_odds)[-10:]
    x = values / temperature + offset
    expected = np.exp(x - np.logaddexp.reduce([*x, 0.0]))
    np.testing.assert_allclose(Calibration(temperature, offset, 1.0).list_probability(values), expected, atol=1e-9)


def test_copies_do_not_compete_and_documents_behind_the_tenth_change_nothing():
    calibration = Calibration(1.0, 0.0, 1.0)
    assert calibration.list_probability([3.0, 3.0, 1.0])[0] == calibration.list_probability([3.0, 1.0])[0]
    longer, ten = np.arange(20.0)[::-1], np.arange(20.0)[::-1][:10]
    np.testing.assert_array_equal(calibration.list_probability(longer)[:10], calibration.list_probability(ten))


def test_only_some_documents_compete_if_they_are_named():
    calibration, log_odds = Calibration(1.0, 0.0, 1.0), np.array([0.0, 3.0, 1.0])
    p = calibration.list_probability(log_odds, log_odds[:1])
    np.testing.assert_allclose(p[1:], [np.exp(x) / (2 + np.exp(x)) for x in (3, 1)])
    assert p[0] == calibration.probability(0.0)


def test_models_are_compared_by_pairs_whatever_their_lists_say():
    pairs, lists_too = Calibration(2.0, -1.0), Calibration(2.0, -1.0, 1.0, 0.5, 3.0)
    log_odds, source = np.array([-3.0, 0.0, 4.0]), Calibration(0.5, 1.0)
    np.testing.assert_array_equal(lists_too.convert(log_odds, source), pairs.convert(log_odds, source))
    np.testing.assert_array_equal(lists_too.probability(log_odds), pairs.probability(log_odds))
    assert lists_too.list_probability(log_odds[:1]) == Calibration(0.5, 3.0).probability(log_odds[:1])
