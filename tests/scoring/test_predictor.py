import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rabtriever.scoring.fold import score_latents
from rabtriever.scoring.predictor import KINDS, Predictor


@settings(max_examples=25, deadline=None)
@given(kind=st.sampled_from(KINDS), width=st.integers(1, 40), hidden=st.integers(2, 30), seed=st.integers(0, 2**20))
def test_the_fold_is_exact(kind, width, hidden, seed):
    torch.manual_seed(seed)
    predictor = Predictor(hidden, width, kind=kind)
    for side in ("query", "document", "output"):
        predictor.fit_normalization(side, torch.randn(30, hidden) * 3 + 2)
    z_q, z_d, w = torch.randn(4, hidden), torch.randn(5, hidden), torch.randn(hidden)
    z_hat = predictor(z_q[:, None], z_d[None])
    assert z_hat.shape == (4, 5, hidden)
    unfolded = z_hat @ w
    torch.testing.assert_close(predictor.log_odds(z_q, z_d, w), unfolded, atol=1e-4, rtol=1e-4)
    fold = predictor.fold(w)
    folded = score_latents(fold.query(z_q.numpy()), fold.document(z_d.numpy()), fold.positive)
    np.testing.assert_allclose(folded, unfolded.detach().numpy(), atol=2e-4, rtol=2e-4)
    assert folded.dtype == np.float32 and folded.shape == (4, 5)


def test_a_flat_dimension_is_not_blown_up():
    predictor = Predictor(3, 4)
    states = torch.randn(100, 3) * torch.tensor([1.0, 1.0, 0.0])
    predictor.fit_normalization("query", states)
    assert predictor.query_scale.min() > 0.01


def test_a_quadratic_predictor_is_an_inner_product():
    torch.manual_seed(0)
    fold = Predictor(8, 5, kind="quadratic").fold(torch.randn(8))
    queries, documents = (side(torch.randn(3, 8).numpy()) for side in (fold.query, fold.document))
    plain = np.c_[queries[:, :-1], np.ones(3)] @ documents.T + queries[:, -1:]  # what a vector index would compute
    np.testing.assert_allclose(score_latents(queries, documents, fold.positive), plain, atol=1e-5)
