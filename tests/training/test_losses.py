import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rabtriever.scoring.predictor import Predictor
from rabtriever.training import losses
from rabtriever.training.encoded_data import EncodedQueries
from rabtriever.training.losses import (
    decorrelation,
    dpo,
    embedding_error,
    label_loss,
    list_loss,
    listwise,
    log_odds_error,
    pointwise,
    reverse_kl,
)


def encoded(states, positives, own_documents=None):
    own = torch.tensor(own_documents or [-1] * len(states))
    return EncodedQueries([""] * len(states), states, positives, own)


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


@given(seed=st.integers(0, 99), scale=st.floats(0.1, 10), offset=st.floats(-5, 5))
def test_decorrelation_is_blind_to_scale_and_offset(seed, scale, offset):
    student, teacher = torch.randn(2, 9, generator=torch.Generator().manual_seed(seed))
    expected = 1 - torch.corrcoef(torch.stack([student, teacher]))[0, 1]
    torch.testing.assert_close(decorrelation(student * scale + offset, teacher), expected, rtol=1e-3, atol=1e-3)


def test_log_odds_error_is_in_units_of_the_teachers_spread_and_bounded_where_it_has_none():
    teacher = torch.tensor([-3.0, 1.0, 2.0, 8.0])
    assert log_odds_error(teacher.mean().expand(4), teacher).item() == pytest.approx(1.0)
    assert log_odds_error(torch.tensor([3.0]), torch.tensor([1.0])).item() == pytest.approx(4.0)


def test_a_batch_without_a_label_has_loss_and_gradient_zero():
    log_odds = torch.randn(3, 4, requires_grad=True)
    loss = listwise(log_odds, torch.zeros(3, 4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0 and torch.equal(log_odds.grad, torch.zeros(3, 4))
    predictor = Predictor(8, 4)
    assert (
        label_loss(predictor.log_odds, encoded(torch.randn(3, 8), [[]] * 3), torch.arange(5), torch.Generator()).item()
        == 0
    )
    assert listwise(torch.empty(0, 4), torch.empty(0, 4, dtype=torch.bool)).item() == 0


def over(predictor, z_d):
    """Scores documents by their positions."""
    return lambda z_q, documents: predictor.log_odds(z_q, z_d[documents])


def test_label_loss_is_listwise_over_all_documents_for_labelled_queries_alone():
    torch.manual_seed(0)
    predictor, z_q, z_d = Predictor(8, 4).eval(), torch.randn(3, 8), torch.randn(5, 8)
    positive = torch.tensor([[True, False, False, False, True], [False] * 5, [False, True, False, False, False]])
    expected = listwise(predictor.log_odds(z_q, z_d), positive)
    torch.testing.assert_close(
        label_loss(over(predictor, z_d), encoded(z_q, [[0, 4], [], [1]]), torch.arange(5), torch.Generator()), expected
    )


def test_a_querys_own_document_is_no_negative():
    torch.manual_seed(0)
    predictor, z_q, z_d = Predictor(8, 4).eval(), torch.randn(2, 8), torch.randn(5, 8)
    own = label_loss(over(predictor, z_d), encoded(z_q, [[0], [1]], [4, -1]), torch.arange(5), torch.Generator())
    first = label_loss(over(predictor, z_d), encoded(z_q[:1], [[0]]), torch.arange(4), torch.Generator())
    second = label_loss(over(predictor, z_d), encoded(z_q[1:], [[1]]), torch.arange(5), torch.Generator())
    torch.testing.assert_close(own, (first + second) / 2)


def test_smoothed_labels_are_a_mixture_with_the_encoders_softmax():
    torch.manual_seed(0)
    z_q, z_d, scores = torch.randn(2, 8), torch.randn(5, 8), torch.randn(2, 5, requires_grad=True)
    queries, encoder = encoded(z_q, [[0], [1]], [4, -1]), lambda q, d: q @ z_d[d].T
    loss = label_loss(lambda q, d: scores[:, d], queries, torch.arange(5), torch.Generator(), encoder, 0.2)
    loss.backward()
    shares = (z_q @ z_d.T).masked_fill(torch.tensor([[0, 0, 0, 0, 1], [0] * 5]).bool(), float("-inf")).softmax(1)
    target = 0.2 * shares + 0.8 * torch.eye(5)[:2]
    own = scores.detach().masked_fill(shares == 0, float("-inf"))
    torch.testing.assert_close(scores.grad, (own.softmax(1) - target) / 2)  # least where the softmax is the target
    assert label_loss(
        lambda q, d: scores[:, d], queries, torch.arange(5), torch.Generator(), encoder, 0.0
    ) == label_loss(lambda q, d: scores[:, d], queries, torch.arange(5), torch.Generator())


def test_a_sample_of_a_large_corpus_holds_the_relevant_documents(monkeypatch):
    monkeypatch.setattr(losses, "MAX_CANDIDATES", 3)
    torch.manual_seed(0)
    predictor, queries, z_d = Predictor(8, 4).eval(), encoded(torch.randn(2, 8), [[40], [7, 49]]), torch.randn(50, 8)
    sampled = torch.randperm(50, generator=torch.Generator().manual_seed(1))[:3]
    candidates = sorted({*sampled.tolist(), 40, 7, 49})
    positive = torch.tensor([[d in relevant for d in candidates] for relevant in queries.positives])
    expected = listwise(predictor.log_odds(queries.states, z_d[candidates]), positive)
    torch.testing.assert_close(
        label_loss(over(predictor, z_d), queries, torch.arange(50), torch.Generator().manual_seed(1)), expected
    )


def test_list_loss_is_the_cross_entropy_with_the_teachers_softmax_by_hand():
    student, teacher = (
        torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]]),
        torch.tensor([[3.0, 1.0, -1.0], [9.0, 0.0, 0.0]]),
    )
    left_out = torch.tensor([[False, False, False], [True, False, False]])

    def softmax(values):
        shares = [math.exp(value) for value in values]
        return [share / sum(shares) for share in shares]

    of_first = -sum(p * math.log(q) for p, q in zip(softmax([3, 1, -1]), softmax([1, 0, 2]), strict=True))
    of_second = math.log(2)  # its best document is the query itself: the rest is even
    expected = (of_first + of_second) / 2
    assert list_loss(student, teacher, left_out).item() == pytest.approx(expected, abs=1e-6)


def test_list_loss_is_least_where_the_softmaxes_agree_and_never_pulls_at_the_querys_own_document():
    torch.manual_seed(0)
    teacher, left_out = torch.randn(4, 6) * 3, torch.eye(4, 6, dtype=torch.bool)
    student = (teacher + 5).requires_grad_()  # an offset of all documents is no difference
    list_loss(student, teacher, left_out).backward()
    assert student.grad.abs().max() < 1e-6
    student = torch.randn(4, 6, requires_grad=True)
    list_loss(student, teacher, left_out).backward()
    assert not student.grad[left_out].any() and student.grad[~left_out].all()


def test_labels_compete_with_the_documents_that_are_given_alone():
    torch.manual_seed(0)
    predictor, z_q, z_d = Predictor(8, 4).eval(), torch.randn(2, 8), torch.randn(5, 8)
    some = label_loss(over(predictor, z_d), encoded(z_q, [[1], [3]]), torch.tensor([1, 3, 4]), torch.Generator())
    alone = z_d[[1, 3, 4]]
    expected = label_loss(over(predictor, alone), encoded(z_q, [[0], [1]]), torch.arange(3), torch.Generator())
    torch.testing.assert_close(some, expected)
