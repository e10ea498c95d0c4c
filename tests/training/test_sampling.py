import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rabtriever.training import sampling
from rabtriever.training.config import DistillConfig
from rabtriever.training.sampling import rank_documents, sample_pairs, shuffled_batches

NOTHING = torch.empty(0, 2, dtype=torch.long)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(log_odds, count=1, exploration=0.0, temperature=1.0, excluded=NOTHING, positives=None):
    """Pairs of (row, document) drawn for every row of a matrix of log-odds."""
    n, k = log_odds.shape
    ranking = rank_documents(lambda rows: log_odds[rows], torch.arange(n), k, max(256, count), excluded)
    config = DistillConfig(exploration=exploration, temperature=temperature)
    return sample_pairs(*ranking, positives or [[]] * n, count, config, generator())


@settings(max_examples=50)
@given(st.integers(1, 150), st.integers(1, 9), st.integers(1, 12), st.integers(0, 999))
def test_the_ranking_is_that_of_the_whole_matrix_without_what_is_excluded(queries, documents, count, seed):
    log_odds = torch.randn(queries, documents, generator=generator(seed))
    mask = torch.rand(queries, documents, generator=generator(seed + 1)) < 0.3
    chosen = torch.randperm(queries, generator=generator(seed))[: max(1, queries // 2)]
    before = log_odds.clone()
    values, best = rank_documents(lambda rows: log_odds[rows], chosen, documents, count, mask.nonzero())
    expected = log_odds.masked_fill(mask, float("-inf"))[chosen].topk(min(count, documents), dim=1)
    assert torch.equal(values, expected.values) and torch.equal(log_odds, before)
    finite = ~values.isneginf()
    assert torch.equal(best[finite], expected.indices[finite])


def test_the_scores_of_few_queries_are_in_memory_at_a_time(monkeypatch):
    monkeypatch.setattr(sampling, "MAX_SCORES", 1000)
    sizes = []

    def score(rows):
        sizes.append(len(rows) * 300)
        return torch.zeros(len(rows), 300)

    values, _ = rank_documents(score, torch.arange(1024), 300, 10, NOTHING)
    assert values.shape == (1024, 10) and max(sizes) <= 1000


@settings(max_examples=50)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 5), st.floats(0, 1), st.integers(0, 999))
def test_pairs_are_distinct_new_and_hold_a_positive(queries, documents, count, exploration, seed):
    log_odds = torch.randn(queries, documents, generator=generator(seed)) * 30
    excluded = torch.rand(queries, documents, generator=generator(seed)) < 0.3
    positives = [[row % documents] if row % 2 and not excluded[row, row % documents] else [] for row in range(queries)]
    pairs = draw(log_odds, count, exploration, 1.0, excluded.nonzero(), positives)
    assert len(pairs) == len(set(map(tuple, pairs.tolist()))) == (~excluded).sum(1).clamp_max(count).sum()
    assert not excluded[pairs[:, 0], pairs[:, 1]].any()
    assert pairs[:, 0].tolist() == sorted(pairs[:, 0].tolist())
    for row, relevant in enumerate(positives):
        assert not relevant or [row, relevant[0]] in pairs.tolist()


def test_a_positive_far_down_the_ranking_is_drawn_all_the_same():
    log_odds = -torch.arange(1000.0).expand(3, 1000)
    pairs = draw(log_odds, 2, positives=[[999], [], [0, 500]])
    assert [0, 999] in pairs.tolist() and len(pairs) == 6
    assert {document for query, document in pairs.tolist() if query == 2} & {0, 500}


def frequencies(exploration, temperature=1.0):
    log_odds = torch.log(torch.tensor([0.1, 0.6, 0.3])).expand(4000, 3)
    pairs = draw(log_odds, 1, exploration, temperature)
    return torch.bincount(pairs[:, 1], minlength=3) / 4000


def test_documents_are_drawn_from_the_students_softmax():
    torch.testing.assert_close(frequencies(0.0), torch.tensor([0.1, 0.6, 0.3]), atol=0.03, rtol=0)


def test_exploration_draws_uniformly():
    torch.testing.assert_close(frequencies(1.0), torch.full((3,), 1 / 3), atol=0.03, rtol=0)


def test_a_cold_policy_takes_the_best():
    assert frequencies(0.0, temperature=1e-3)[1] == 1


@pytest.mark.parametrize(("spread", "before", "now"), [(1.0, 0.05, 0.25), (1.5, 0.12, 0.35), (3.0, 0.56, 0.64)])
def test_the_policy_follows_the_ranking_of_a_large_corpus(spread, before, now):
    """At a spread of 1.5 a softmax over all 2,500 documents draws .12 from the ten best, as the shipped model did."""
    log_odds = torch.randn(1000, 2500, generator=generator()) * spread
    rank = (-log_odds).argsort(1).argsort(1)
    assert log_odds.softmax(1)[rank < 10].sum() / 1000 == pytest.approx(before, abs=0.02)
    pairs = draw(log_odds)
    ranks = rank[pairs[:, 0], pairs[:, 1]]
    assert ranks.max() < sampling.POLICY_DEPTH
    assert (ranks < 10).float().mean() == pytest.approx(now, abs=0.05)
    explored = draw(log_odds, exploration=1.0)
    ranks = rank[explored[:, 0], explored[:, 1]]
    assert ranks.max() < sampling.EXPLORATION_DEPTH and (ranks < 128).float().mean() == pytest.approx(0.5, abs=0.06)


def test_where_the_best_were_all_scored_the_policy_goes_deeper(monkeypatch):
    monkeypatch.setattr(sampling, "POLICY_DEPTH", 3)
    log_odds = torch.arange(10.0).expand(200, 10)
    assert set(draw(log_odds, temperature=100.0)[:, 1].tolist()) == {7, 8, 9}
    scored = torch.cartesian_prod(torch.arange(200), torch.arange(7, 10))
    assert set(draw(log_odds, temperature=100.0, excluded=scored)[:, 1].tolist()) == {4, 5, 6}


def test_batches_visit_all_before_any_twice():
    batches = list(itertools.islice(shuffled_batches(7, 3, generator()), 7))
    assert all(len(set(batch.tolist())) == 3 for batch in batches)  # also where one pass ends and the next begins
    passes = torch.cat(batches).view(3, 7)
    assert all(sorted(visited.tolist()) == list(range(7)) for visited in passes)
