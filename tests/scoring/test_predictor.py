import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from rabtriever.errors import InputError
from rabtriever.persistence.folder import PREDICTOR
from rabtriever.scoring.fold import score_latents
from rabtriever.scoring.layout import ScoreLayout
from rabtriever.scoring.predictor import KINDS, Predictor, load_predictor


def random_predictor(hidden, units, kind="mlp"):
    predictor = Predictor(hidden, units, kind=kind, choice_direction=torch.randn(hidden)).eval()
    for side in ("query", "document", "output"):
        predictor.fit_normalization(side, torch.randn(30, hidden) * 3 + 2)
    return predictor


@settings(max_examples=25, deadline=None)
@given(kind=st.sampled_from(KINDS), units=st.integers(1, 40), hidden=st.integers(2, 30), seed=st.integers(0, 2**20))
def test_the_fold_is_exact(kind, units, hidden, seed):
    torch.manual_seed(seed)
    predictor = random_predictor(hidden, units, kind)
    z_q, z_d = torch.randn(4, hidden), torch.randn(5, hidden)
    z_hat = predictor(z_q[:, None], z_d[None])
    assert z_hat.shape == (4, 5, hidden)
    unfolded = z_hat @ predictor.choice_direction
    torch.testing.assert_close(predictor.log_odds(z_q, z_d), unfolded, atol=1e-4, rtol=1e-4)
    fold = predictor.fold()
    assert fold.layout.width == units and fold.layout.n_inner == (units if kind == "quadratic" else 0)
    folded = score_latents(fold.query(z_q.numpy()), fold.document(z_d.numpy()), fold.layout)
    np.testing.assert_allclose(folded, unfolded.detach().numpy(), atol=2e-4, rtol=2e-4)
    assert folded.dtype == np.float32 and folded.shape == (4, 5)


def test_a_flat_dimension_is_not_scaled_up():
    predictor = Predictor(3, 4)
    states = torch.randn(100, 3) * torch.tensor([1.0, 1.0, 0.0])
    predictor.fit_normalization("query", states)
    assert predictor.query_scale.min() > 0.01


def test_a_quadratic_predictor_is_an_inner_product():
    torch.manual_seed(0)
    fold = random_predictor(8, 5, "quadratic").fold()
    queries, documents = (side(torch.randn(3, 8).numpy()) for side in (fold.query, fold.document))
    plain = np.c_[queries[:, :-1], np.ones(3)] @ documents.T + queries[:, -1:]  # what a vector index would compute
    np.testing.assert_allclose(score_latents(queries, documents, fold.layout), plain, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_loaded_is_saved(tmp_path, kind):
    torch.manual_seed(0)
    saved = random_predictor(8, 5, kind)
    save_file(saved.state_dict(), tmp_path / PREDICTOR)
    config = {"predictor": saved.to_config(), "encoder": {"pooling": "mean"}}
    loaded = load_predictor(tmp_path, config).eval()
    z_q, z_d = torch.randn(4, 8), torch.randn(3, 8)
    assert loaded.kind == kind and loaded.weights_hash() == saved.weights_hash()
    assert torch.equal(loaded.choice_direction, saved.choice_direction)
    torch.testing.assert_close(loaded.log_odds(z_q, z_d), saved.log_odds(z_q, z_d), atol=0, rtol=0)
    np.testing.assert_array_equal(loaded.fold().query(z_q.numpy()), saved.fold().query(z_q.numpy()))
    with pytest.raises(InputError, match="a broken retriever"):
        load_predictor(tmp_path, {**config, "predictor": {**saved.to_config(), "hidden_units": 6}})


def test_every_weight_and_buffer_is_in_the_hash():
    torch.manual_seed(0)
    predictor = random_predictor(4, 3)
    seen = {predictor.weights_hash()}
    for value in predictor.state_dict().values():
        value.view(-1)[-1] += 1
        seen.add(predictor.weights_hash())
    assert len(seen) == 1 + len(predictor.state_dict())


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
