import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rabtriever.predictor import MLPPredictor, folded_scores


@settings(max_examples=25, deadline=None)
@given(width=st.integers(1, 40), hidden=st.integers(2, 30), seed=st.integers(0, 2**20))
def test_the_fold_is_exact(width, hidden, seed):
    torch.manual_seed(seed)
    predictor = MLPPredictor(hidden, width)
    for side in ("query", "document", "output"):
        predictor.standardise(side, torch.randn(30, hidden) * 3 + 2)
    z_q, z_d, w = torch.randn(4, hidden), torch.randn(5, hidden), torch.randn(hidden)
    z_hat = predictor(z_q[:, None], z_d[None])
    assert z_hat.shape == (4, 5, hidden)
    unfolded = z_hat @ w
    torch.testing.assert_close(predictor.log_odds(z_q, z_d, w), unfolded, atol=1e-4, rtol=1e-4)
    fold = predictor.fold(w)
    folded = folded_scores(fold.query(z_q.numpy()), fold.document(z_d.numpy()), fold.positive)
    np.testing.assert_allclose(folded, unfolded.detach().numpy(), atol=2e-4, rtol=2e-4)
    assert folded.dtype == np.float32 and folded.shape == (4, 5)


def test_a_flat_dimension_is_not_blown_up():
    predictor = MLPPredictor(3, 4)
    states = torch.randn(100, 3) * torch.tensor([1.0, 1.0, 0.0])
    predictor.standardise("query", states)
    assert predictor.query_scale.min() > 0.01
