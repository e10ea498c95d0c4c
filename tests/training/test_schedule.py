from hypothesis import given
from hypothesis import strategies as st

from rabtriever.training.config import DistillConfig
from rabtriever.training.schedule import Schedule


@given(st.integers(1, 50_000), st.integers(1, 20), st.integers(1, 5000), st.integers(1, 3000), st.integers(0, 500))
def test_the_calls_fit_the_budget_and_the_rounds_can_spend_them(calls, rounds, queries, documents, dev):
    config = DistillConfig(teacher_calls=calls, rounds=rounds)
    schedule = Schedule.of(config, queries, documents, dev)
    calibration = schedule.calibrated_queries * min(10, documents)
    assert schedule.training_calls + calibration == calls and calibration <= calls / 10
    assert schedule.calibrated_queries <= min(dev, config.calibration_queries)
    a_round = schedule.queries_per_round * schedule.pairs_per_query
    assert a_round * rounds >= min(schedule.training_calls, queries * documents)
    assert schedule.queries_per_round <= queries and schedule.pairs_per_query <= documents


@given(st.integers(1, 9000), st.integers(1, 20))
def test_the_rate_is_at_its_peak_in_the_last_round_and_decays_after_it(steps, rounds):
    schedule = Schedule.of(DistillConfig(steps=steps, rounds=rounds), 100, 100, 0)
    start = schedule.steps_per_round * rounds
    factors = [schedule.learning_rate_factor(step, rounds) for step in range(start + schedule.decay_steps)]
    assert all(0 <= factor <= 1 for factor in factors)
    if steps >= 4 * rounds:
        assert len(factors) <= steps
        assert all(factor == 1 for factor in factors[start - schedule.steps_per_round : start]) or rounds == 1
        assert factors[start:] == sorted(factors[start:], reverse=True) and factors[-1] < 0.6
