"""Weights of a teacher's models, fitted to labels."""

import torch

from rabtriever.training.weights import fit_weights


def likelihood(weights, scores, positive):
    log_odds = torch.einsum("m,mnk->nk", weights, scores)
    return (log_odds.masked_fill(~positive, -torch.inf).logsumexp(1) - log_odds.logsumexp(1)).mean()


def sample(seed=0, n=400, k=12):
    """Labels drawn from the softmax of 3 a + 1 b, with a third score that says nothing."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(3, n, k, generator=generator)
    labels = torch.distributions.Categorical(logits=3 * scores[0] + scores[1])
    torch.manual_seed(seed)
    positive = torch.zeros(n, k, dtype=torch.bool)
    positive[torch.arange(n), labels.sample()] = True
    return scores, positive


def test_the_weights_that_made_the_labels_are_found():
    scores, positive = sample()
    found = fit_weights(scores, positive, torch.ones(3))
    assert abs(found[0] - 3) < 0.7 and abs(found[1] - 1) < 0.4 and found[2] < 0.4


def test_labels_are_likelier_than_under_the_default():
    scores, positive = sample(1)
    start = torch.tensor([1.0, 2.0, 2.0])
    assert likelihood(fit_weights(scores, positive, start), scores, positive) > likelihood(start, scores, positive)


def test_no_weight_is_negative_though_a_score_misleads():
    scores, positive = sample(2)
    scores[2] = -scores[0]
    found = fit_weights(scores, positive, torch.ones(3))
    assert found.min() >= 0 and found[2] < 0.1
