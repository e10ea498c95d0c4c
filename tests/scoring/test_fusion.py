import hashlib

import numpy as np
import pytest

from rabtriever.errors import InputError
from rabtriever.scoring.fusion import Fusion, text_keys


def test_a_key_is_64_bits_of_the_texts_sha256():
    texts = ["rain", "", "Größe", "half \ud800 a pair", "rain"]
    keys = text_keys(texts)
    assert keys.dtype == np.int64 and keys.shape == (5,) and keys[0] == keys[4] and len(set(keys.tolist())) == 4
    expected = int.from_bytes(hashlib.sha256(b"rain").digest()[:8], "little", signed=True)
    assert keys[0] == expected
    assert text_keys([]).shape == (0,)


def test_documents_that_were_trained_on_get_the_gain_and_all_others_the_new_one():
    fusion, known = Fusion(20.0, 0.75, 0.25), text_keys(["rain", "wind"])
    gains = fusion.gains(["wind", "snow", "rain", "Rain"], known)
    assert gains.dtype == np.float32 and gains.tolist() == [0.75, 0.25, 0.75, 0.25]
    assert fusion.gains(["wind"], np.empty(0, np.int64)).tolist() == [0.25]
    assert fusion.gains([], known).shape == (0,)


def test_a_zero_shot_fusion_has_no_correction():
    fusion = Fusion.zero_shot()
    assert fusion.beta > 0 and fusion.gain == fusion.new_gain == 0
    assert (
        Fusion().beta == 0 and Fusion().gain == Fusion().rerank == 1.0
    )  # the paper's: the predictor, then the reranker


@pytest.mark.parametrize("field", ["beta", "gain", "new_gain", "rerank"])
@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_a_weight_below_zero_is_named(field, value):
    with pytest.raises(InputError, match=f"^fusion.{field} ") as caught:
        Fusion(**{field: value})
    assert caught.value.param == field
