import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scoring.predictors import random_predictor

from rabtriever.errors import InputError
from rabtriever.persistence.folder import PREDICTOR
from rabtriever.scoring.predictor import KINDS, Predictor, load_predictor


def test_a_flat_dimension_is_not_scaled_up():
    predictor = Predictor(3, 4)
    states = torch.randn(100, 3) * torch.tensor([1.0, 1.0, 0.0])
    predictor.fit_normalization("query", states)
    assert predictor.query_scale.min() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_loaded_is_saved(tmp_path, kind):
    torch.manual_seed(0)
    saved = random_predictor(8, 5, kind)
    save_file(saved.state_dict(), tmp_path / PREDICTOR)
    config = {"predictor": saved.to_config(), "encoder": {"pooling": "mean"}}
    loaded, trained_on = load_predictor(tmp_path, config)
    loaded.eval()
    assert trained_on is None
    z_q, z_d = torch.randn(4, 8), torch.randn(3, 8)
    assert loaded.kind == kind and loaded.weights_hash() == saved.weights_hash()
    assert torch.equal(loaded.choice_direction, saved.choice_direction)
    torch.testing.assert_close(loaded.log_odds(z_q, z_d), saved.log_odds(z_q, z_d), atol=0, rtol=0)
    for side in ("query_map", "document_map"):
        found, expected = (getattr(predictor.fold(), side)(z_q.numpy()) for predictor in (loaded, saved))
        np.testing.assert_array_equal(found, expected)
    assert load_predictor(tmp_path, {"encoder": {}}) == (None, None)
    save_file({**saved.state_dict(), "trained_on": torch.tensor([-5, 7])}, tmp_path / PREDICTOR)
    np.testing.assert_array_equal(load_predictor(tmp_path, config)[1], np.array([-5, 7], np.int64))
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
