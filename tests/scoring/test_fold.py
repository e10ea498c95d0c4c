"""Folded = unfolded, whatever the score is made of."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring.predictors import random_predictor

from rabtriever.scoring.fold import Fold, score_latents
from rabtriever.scoring.layout import ScoreLayout
from rabtriever.scoring.predictor import KINDS


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    units=st.integers(1, 40),
    hidden=st.integers(2, 30),
    output=st.sampled_from(["1", "H", "H+1"]),
    beta=st.sampled_from([0.0, 0.5, 20.0, 60.0]),
    offset=st.sampled_from([0.0, -10.0]),
    center=st.sampled_from([0.0, 3.0]),
    gains=st.sampled_from([0.0, 0.25, 1.0, None]),
    seed=st.integers(0, 2**20),
)
def test_the_fold_is_exact(kind, units, hidden, output, beta, offset, center, gains, seed):
    torch.manual_seed(seed)
    size = {"1": 1, "H": hidden, "H+1": hidden + 1}[output]
    predictor = random_predictor(hidden, units, kind, size)
    z_q, z_d = (torch.nn.functional.normalize(torch.randn(n, hidden), dim=1) for n in (4, 5))
    z_hat = predictor(z_q[:, None], z_d[None])
    assert z_hat.shape == (4, 5, size)
    correction = z_hat @ predictor.choice_direction
    torch.testing.assert_close(predictor.log_odds(z_q, z_d), correction, atol=1e-4, rtol=1e-4)
    gains = np.random.default_rng(seed).random(5).astype(np.float32) if gains is None else gains  # one for each
    expected = beta * z_q.double() @ z_d.double().T + torch.as_tensor(gains) * (correction.double() - center) + offset
    fold = Fold(hidden, predictor.fold(), beta, offset, center)
    similarity = hidden if beta else 0
    assert fold.layout.n_inner == similarity + (units if kind == "quadratic" else 0)
    assert fold.layout.width == similarity + units
    queries, documents = fold.query(z_q.numpy()), fold.document(z_d.numpy(), gains)
    assert queries.dtype == documents.dtype == np.float32 and queries.shape == (4, fold.layout.dim)
    folded = score_latents(queries, documents, fold.layout)
    np.testing.assert_allclose(folded, expected.detach().numpy(), atol=2e-4, rtol=2e-4)
    assert folded.dtype == np.float32 and folded.shape == (4, 5)


@pytest.mark.parametrize("beta", [0.0, 20.0])
def test_a_quadratic_predictor_is_an_inner_product(beta):
    torch.manual_seed(0)
    fold = Fold(8, random_predictor(8, 5, "quadratic").fold(), beta)
    states = [torch.randn(3, 8).numpy() for _ in range(2)]
    queries, documents = fold.query(states[0]), fold.document(states[1], np.array([1.0, 0.25, 0.0], np.float32))
    plain = np.c_[queries[:, :-1], np.ones(3)] @ documents.T + queries[:, -1:]  # what a vector index would compute
    np.testing.assert_allclose(score_latents(queries, documents, fold.layout), plain, rtol=1e-5, atol=1e-4)


def test_without_a_predictor_the_score_is_the_similarity():
    rng = np.random.default_rng(0)
    z_q, z_d = (rng.normal(size=(n, 6)).astype(np.float32) for n in (3, 4))
    fold = Fold(6, None, 20.0, -10.0)
    assert fold.layout == ScoreLayout(6)
    for gains in (0.0, 1.0):  # which nothing is there to have
        folded = score_latents(fold.query(z_q), fold.document(z_d, gains), fold.layout)
        np.testing.assert_allclose(folded, 20 * z_q @ z_d.T - 10, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(sizes=st.tuples(*[st.integers(0, 5)] * 3), n=st.integers(0, 3), k=st.integers(0, 4), seed=st.integers(0, 2**20))
def test_scores_of_mixed_layouts_follow_the_equation(sizes, n, k, seed):
    rng, layout = np.random.default_rng(seed), ScoreLayout(*sizes)
    queries, documents = (rng.normal(size=(rows, layout.dim)).astype(np.float32) for rows in (n, k))
    expected = np.zeros((n, k))
    inner, relu = layout.n_inner, layout.n_inner + layout.n_positive
    for i, a in enumerate(queries.astype(float)):
        for j, b in enumerate(documents.astype(float)):
            gained = a[-2] + sum(max(0, a[t] + b[t]) for t in range(inner, relu))
            gained -= sum(max(0, a[t] + b[t]) for t in range(relu, layout.width))
            expected[i, j] = sum(a[:inner] * b[:inner]) + b[-2] * gained + a[-1] + b[-1]
    found = score_latents(queries, documents, layout)
    assert found.shape == (n, k) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
    for j in range(k):  # a document's score does not depend on the other documents
        np.testing.assert_array_equal(score_latents(queries, documents[j : j + 1], layout), found[:, j : j + 1])


def test_a_layout_counts_its_columns():
    layout = ScoreLayout(3, 2, 4)
    assert layout.n_relu == 6 and layout.width == 9 and layout.dim == 11
    assert ScoreLayout(**layout.to_dict()) == layout
