import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rabtriever.training import policy
from rabtriever.training.sampling import batches, sample_pairs


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 5), st.floats(0, 1), st.integers(0, 999))
def test_pairs_are_distinct_and_begin_with_a_positive(queries, documents, count, exploration, seed):
    chance = torch.Generator().manual_seed(seed)
    log_odds = torch.randn(queries, documents, generator=chance) * 30
    positives = [[row % documents] if row % 2 else [] for row in range(queries)]
    known = torch.rand(queries, documents, generator=chance) < 0.3
    pairs = sample_pairs(log_odds, positives, known, count, exploration, 1.0, chance)
    left = (~known).sum(1).clamp_max(count)
    assert len(pairs) == left.sum() == len({tuple(pair) for pair in pairs.tolist()})
    assert not known[pairs[:, 0], pairs[:, 1]].any()
    for row, right in enumerate(positives):
        assert not right or known[row, right[0]] or [row, right[0]] in pairs.tolist()


def frequencies(exploration: float, temperature: float = 1.0) -> torch.Tensor:
    log_odds = torch.log(torch.tensor([0.6, 0.3, 0.1])).expand(4000, 3)
    known = torch.zeros(4000, 3, dtype=torch.bool)
    pairs = sample_pairs(log_odds, [[]] * 4000, known, 1, exploration, temperature, torch.Generator().manual_seed(0))
    return torch.bincount(pairs[:, 1], minlength=3) / 4000


def test_documents_are_drawn_from_the_students_softmax():
    torch.testing.assert_close(frequencies(0.0), torch.tensor([0.6, 0.3, 0.1]), atol=0.03, rtol=0)


def test_exploration_draws_uniformly():
    torch.testing.assert_close(frequencies(1.0), torch.full((3,), 1 / 3), atol=0.03, rtol=0)


def test_a_cold_policy_takes_the_best():
    assert frequencies(0.0, temperature=1e-3)[0] == 1


def test_batches_visit_all_before_any_twice():
    chance = torch.Generator().manual_seed(0)
    some = list(itertools.islice(batches(7, 3, chance), 7))
    assert all(len(set(batch.tolist())) == 3 for batch in some)  # also where one pass ends and the next begins
    passes = torch.cat(some).view(3, 7)
    assert all(sorted(visited.tolist()) == list(range(7)) for visited in passes)


def test_exploration_stays_near_the_best_but_a_flat_preference_reaches_everything(monkeypatch):
    monkeypatch.setattr(policy, "NEAR", 3)
    slope = torch.arange(10.0).expand(200, 10)
    settings = {"count": 1, "exploration": 1.0, "temperature": 1.0, "generator": torch.Generator().manual_seed(0)}
    nothing = torch.zeros(200, 10, dtype=torch.bool)
    near = sample_pairs(slope, [[]] * 200, nothing, **settings)[:, 1]
    assert set(near.tolist()) == {7, 8, 9}
    flat = sample_pairs(torch.zeros(200, 10), [[]] * 200, nothing, **settings)[:, 1]
    assert set(flat.tolist()) == set(range(10))
    known = nothing.clone()
    known[:, 7:] = True  # all that is near was scored: the rest is drawn from, rather than nothing
    assert set(sample_pairs(slope, [[]] * 200, known, **settings)[:, 1].tolist()) == set(range(7))
