from hypothesis import given
from hypothesis import strategies as st

from rabtriever.training.config import DistillConfig
from rabtriever.training.schedule import Schedule

CASES = st.booleans()  # over an encoder with a similarity, or not


@given(
    st.integers(1, 50_000), st.integers(1, 20), st.integers(1, 5000), st.integers(1, 3000), st.integers(0, 500), CASES
)
def test_the_calls_fit_the_budget_and_the_rounds_can_spend_them(calls, rounds, queries, documents, dev, over_encoder):
    config = DistillConfig(rounds=rounds).resolve(over_encoder)
    schedule = Schedule.of(config, queries, documents, dev, calls)
    calibration = schedule.calibrated_queries * min(10, documents)
    assert schedule.training_calls + calibration == calls and calibration <= calls / 10
    assert schedule.calibrated_queries <= min(dev, config.calibration_queries)
    a_round = schedule.queries_per_round * schedule.pairs_per_query
    assert a_round * rounds >= min(schedule.training_calls, queries * documents)
    assert schedule.queries_per_round <= queries and schedule.pairs_per_query <= documents


@given(st.integers(1, 9000), st.integers(1, 20), st.integers(1, 20))
def test_the_rate_is_at_its_peak_in_the_last_round_and_decays_after_it(steps, rounds, last):
    schedule = Schedule.of(DistillConfig(steps=steps, rounds=rounds).resolve(False), 100, 100, 0, 1000)
    schedule = schedule.end_after(min(last, rounds))  # an early stop decays in the same way
    start = schedule.steps_per_round * schedule.rounds
    factors = [schedule.learning_rate_factor(step) for step in range(schedule.total_steps)]
    assert len(factors) == start + schedule.decay_steps and all(0 <= factor <= 1 for factor in factors)
    if steps >= 8 * rounds:
        assert len(factors) <= steps
        assert all(factor == 1 for factor in factors[start - schedule.steps_per_round : start]) or schedule.rounds == 1
        assert factors[start:] == sorted(factors[start:], reverse=True) and factors[-1] < 0.6
