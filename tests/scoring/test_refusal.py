import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from rabtriever.errors import InputError
from rabtriever.scoring.refusal import SHARES, Refusal


def test_the_limit_is_the_order_statistic_whose_bound_holds():
    refusal = Refusal.fit(np.arange(500.0)[::-1])
    refused = int(refusal.limit(0.05))  # of 500, so many lie below
    assert (
        binom.cdf(refused, 500, 0.05) <= 0.05 < binom.cdf(refused + 1, 500, 0.05)
    )  # Clopper-Pearson by its definition


def test_the_promise_is_kept_in_95_of_100_samples():
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(2000):
        limit = Refusal.fit(rng.standard_cauchy(300)).limit(0.05)
        shares.append(0.5 + np.arctan(limit) / np.pi)  # of all requests, below the limit
    assert 0.94 < np.mean(np.array(shares) <= 0.05) < 1 and np.mean(shares) > 0.02  # and it is no empty one


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=200))
def test_greater_shares_have_greater_limits_and_saved_is_live(log_odds):
    refusal = Refusal.fit(np.array(log_odds))
    limits = [refusal.limits[share] for share in SHARES if share in refusal.limits]
    assert limits == sorted(limits)
    assert Refusal.from_config(refusal.to_config()) == refusal
    assert Refusal.from_config(refusal.to_config()).limits == refusal.limits


def test_what_cannot_be_promised_is_refused_with_what_it_needs():
    with pytest.raises(InputError, match="no requests that people labelled"):
        Refusal().limit(0.05)
    with pytest.raises(InputError, match="58 held-out labelled requests are too few, 59 needed"):
        Refusal.fit(np.arange(58.0)).limit(0.05)
    assert Refusal.fit(np.arange(59.0)).limit(0.05) == 0.0
    assert Refusal.fit(np.arange(59.0)).limit(0.06) == 0.0  # the nearest share that is not greater
    with pytest.raises(InputError, match=r"12 held-out labelled requests are too few, 14 needed"):
        Refusal.fit(np.arange(12.0)).limit(0.29)
    with pytest.raises(InputError, match=r"at least 0.01 can be promised"):
        Refusal.fit(np.arange(10_000.0)).limit(0.005)
