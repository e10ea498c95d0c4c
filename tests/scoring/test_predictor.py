import subprocess
import sys

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
    loaded, *beside = load_predictor(tmp_path, config)
    loaded.eval()
    assert beside == [None, None]
    z_q, z_d = torch.randn(4, 8), torch.randn(3, 8)
    assert loaded.kind == kind and loaded.weights_hash() == saved.weights_hash()
    assert torch.equal(loaded.choice_direction, saved.choice_direction)
    torch.testing.assert_close(loaded.log_odds(z_q, z_d), saved.log_odds(z_q, z_d), atol=0, rtol=0)
    for side in ("query_map", "document_map"):
        found, expected = (getattr(predictor.fold(), side)(z_q.numpy()) for predictor in (loaded, saved))
        np.testing.assert_array_equal(found, expected)
    assert load_predictor(tmp_path, {"encoder": {}}) == (None, None, None)
    beside = {"trained_on": torch.tensor([-5, 7]), "query_adapter": torch.eye(8)}
    save_file({**saved.state_dict(), **beside}, tmp_path / PREDICTOR)
    _, trained_on, query_adapter = load_predictor(tmp_path, config)
    np.testing.assert_array_equal(trained_on, np.array([-5, 7], np.int64))
    np.testing.assert_array_equal(query_adapter, np.eye(8, dtype=np.float32))
    with pytest.raises(InputError, match="a broken retriever"):
        load_predictor(tmp_path, {**config, "predictor": {**saved.to_config(), "hidden_units": 6}})


NO_NUMBA = """
import sys
sys.modules.update(numba=None, llvmlite=None)
import torch
from rabtriever import Rabtriever
from rabtriever.scoring.predictor import Predictor
torch.manual_seed(0)
predictor = Predictor(6, 4, output_size=1, choice_direction=torch.ones(1))
z_q, z_d = torch.randn(3, 6), torch.randn(5, 6)
error = predictor.log_odds(z_q, z_d) - predictor(z_q[:, None], z_d[None])[..., 0]
print(float(error.abs().max()) < 1e-5)
"""


def test_a_predictor_needs_no_numba():
    done = subprocess.run([sys.executable, "-c", NO_NUMBA], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_many_documents_are_computed_in_blocks(kind, monkeypatch):
    predictor = random_predictor(8, 5, kind)
    z_q, z_d = torch.randn(4, 8), torch.randn(11, 8)
    at_once = predictor.log_odds(z_q, z_d)
    monkeypatch.setattr("rabtriever.scoring.predictor.DOCUMENTS_PER_KERNEL", 3)
    torch.testing.assert_close(predictor.log_odds(z_q, z_d), at_once, atol=1e-5, rtol=1e-5)


def test_every_weight_and_buffer_is_in_the_hash():
    torch.manual_seed(0)
    predictor = random_predictor(4, 3)
    seen = {predictor.weights_hash()}
    for value in predictor.state_dict().values():
        value.view(-1)[-1] += 1
        seen.add(predictor.weights_hash())
    assert len(seen) == 1 + len(predictor.state_dict())
