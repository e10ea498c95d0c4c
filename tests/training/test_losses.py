import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rabtriever.training.losses import (
    decorrelation,
    dpo,
    embedding_error,
    listwise,
    log_odds_error,
    pointwise,
    policy_kl,
    reverse_kl,
    vocabulary_kl,
)


def test_listwise_is_the_softmax_cross_entropy():
    log_odds, positive = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[True, False, False]])
    expected = -math.log(math.e / (math.e + math.e**2 + math.e**0.5))
    assert listwise(log_odds, positive).item() == pytest.approx(expected, abs=1e-6)


def test_listwise_leaves_out_queries_without_a_positive():
    log_odds, positive = torch.tensor([[1.0, 1.0, 1.0], [5.0, 1.0, 1.0]]), torch.zeros(2, 3, dtype=torch.bool)
    positive[0, 0] = True
    assert listwise(log_odds, positive).item() == pytest.approx(math.log(3), abs=1e-6)


def test_pointwise_is_binary_cross_entropy():
    loss = pointwise(torch.tensor([[0.0, 2.0, -1.0]]), torch.tensor([[True, True, False]]))
    terms = [math.log(2), math.log1p(math.exp(-2)), math.log1p(math.exp(-1))]
    assert loss.item() == pytest.approx(sum(terms) / 3, abs=1e-6)


def test_dpo_prefers_the_right_choice_against_the_reference():
    positive, reference = torch.tensor([[True, False, False]]), torch.tensor([[1.0, 1.0, 1.0]])
    at_reference = dpo(reference, reference, positive)
    better = dpo(torch.tensor([[2.0, 0.0, 0.0]]), reference, positive)
    assert at_reference.item() == pytest.approx(math.log(2), abs=1e-6)
    assert better.item() == pytest.approx(math.log1p(math.exp(-0.1)), abs=1e-6)


@given(st.floats(-20, 20), st.floats(-20, 20))
def test_reverse_kl_is_a_divergence(student, teacher):
    value = reverse_kl(torch.tensor([student]), torch.tensor([teacher])).item()
    assert value >= -1e-5
    assert reverse_kl(torch.tensor([teacher]), torch.tensor([teacher])).item() == pytest.approx(0, abs=1e-6)


def test_reverse_kl_is_the_students_expectation():
    p, q = 0.2, 0.6
    logit = [torch.tensor([math.log(x / (1 - x))]) for x in (p, q)]
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert reverse_kl(*logit).item() == pytest.approx(expected, abs=1e-5)


def test_embedding_error_of_the_mean_is_one():
    target = torch.randn(2000, 5) * torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0]) + 7
    mean = target.mean(0).expand_as(target)
    assert embedding_error(mean, target, target.std(0)).item() == pytest.approx(1, abs=0.01)


def test_vocabulary_kl_is_that_of_the_next_token_distributions():
    torch.manual_seed(0)
    z, target, head = torch.randn(5, 8), torch.randn(5, 8), torch.randn(11, 8)
    student, teacher = (torch.distributions.Categorical(logits=states @ head.T) for states in (z, target))
    expected = torch.distributions.kl_divergence(student, teacher).mean()
    torch.testing.assert_close(vocabulary_kl(z, target, head), expected)


def test_policy_kl_is_that_of_the_softmax_over_each_querys_documents():
    torch.manual_seed(0)
    mine, theirs = torch.randn(7) * 50, torch.randn(7) * 50  # large: the softmax must not overflow
    query = torch.tensor([4, 9, 4, 4, 9, 0, 9])
    expected = [
        torch.distributions.kl_divergence(
            torch.distributions.Categorical(logits=mine[query == q]),
            torch.distributions.Categorical(logits=theirs[query == q]),
        )
        for q in (0, 4, 9)
    ]
    torch.testing.assert_close(policy_kl(mine, theirs, query), torch.stack(expected).mean(), rtol=1e-4, atol=1e-4)


@given(seed=st.integers(0, 99), scale=st.floats(0.1, 10), offset=st.floats(-5, 5))
def test_decorrelation_is_blind_to_scale_and_offset(seed, scale, offset):
    student, teacher = torch.randn(2, 9, generator=torch.Generator().manual_seed(seed))
    expected = 1 - torch.corrcoef(torch.stack([student, teacher]))[0, 1]
    torch.testing.assert_close(decorrelation(student * scale + offset, teacher), expected, rtol=1e-3, atol=1e-3)


def test_log_odds_error_is_in_units_of_the_teachers_spread_and_bounded_where_it_has_none():
    teacher = torch.tensor([-3.0, 1.0, 2.0, 8.0])
    assert log_odds_error(teacher.mean().expand(4), teacher).item() == pytest.approx(1.0)
    assert log_odds_error(torch.tensor([3.0]), torch.tensor([1.0])).item() == pytest.approx(4.0)
