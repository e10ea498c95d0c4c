import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tiny import save_cross_encoder

from rabtriever.errors import InputError, TextError
from rabtriever.rerankers.cross_encoder import CrossEncoderReranker

QUERIES = ["rain", "please show me the weather for my city"]
DOCUMENTS = ["find the weather", "a recipe", "turn the lamp light"]


@pytest.fixture(scope="module")
def cross_encoder(cross_encoder_folder):
    return CrossEncoderReranker.from_pretrained(cross_encoder_folder, device="cpu")


def test_its_number_before_the_sigmoid_is_the_log_odds(cross_encoder, cross_encoder_folder):
    from sentence_transformers import CrossEncoder

    pairs = [(query, document) for query in QUERIES for document in DOCUMENTS]
    expected = CrossEncoder(str(cross_encoder_folder), device="cpu").predict(pairs)  # after its sigmoid
    log_odds = cross_encoder.log_odds(QUERIES, DOCUMENTS)
    assert log_odds.dtype == np.float32 and log_odds.shape == (2, 3)
    np.testing.assert_allclose(1 / (1 + np.exp(-log_odds.ravel())), expected, atol=1e-5)
    np.testing.assert_allclose(cross_encoder.predict(pairs), expected, atol=1e-5)
    assert np.ptp(log_odds) > 0.01  # the tiny model tells texts apart


def test_scores_do_not_depend_on_the_other_texts(cross_encoder):
    together = cross_encoder.log_odds(QUERIES, DOCUMENTS)
    for q, query in enumerate(QUERIES):
        for d, document in enumerate(DOCUMENTS):
            assert cross_encoder.log_odds([query], [document])[0, 0] == pytest.approx(together[q, d], abs=1e-5)


def test_equal_pairs_are_scored_once(cross_encoder, monkeypatch):
    scored, predict = [], cross_encoder.model.predict
    monkeypatch.setattr(
        cross_encoder.model, "predict", lambda pairs, **options: scored.extend(pairs) or predict(pairs, **options)
    )
    pairs = np.array([(1, 2), (0, 0), (1, 2), (1, 3)])
    log_odds = cross_encoder.score(QUERIES, [*DOCUMENTS, " turn the lamp light"], pairs).log_odds
    assert len(scored) == 2 and log_odds[0] == log_odds[2] == log_odds[3]


def test_nothing_to_score(cross_encoder):
    assert cross_encoder.predict([]).shape == (0,)
    assert cross_encoder.rank("rain", []) == []


def test_long_pairs_are_truncated_not_refused(cross_encoder):
    assert np.isfinite(cross_encoder.predict([("rain", "the weather " * 200)])).all()


def test_the_fingerprint_names_the_weights(cross_encoder, cross_encoder_folder, tmp_path, tokenizer):
    again = CrossEncoderReranker.from_pretrained(cross_encoder_folder, device="cpu")
    assert again.fingerprint == cross_encoder.fingerprint
    other = save_cross_encoder(tmp_path, tokenizer)
    weights = load_file(other / "model.safetensors")
    weights["classifier.bias"] += 1
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    changed = CrossEncoderReranker.from_pretrained(other, device="cpu")
    assert changed.fingerprint != cross_encoder.fingerprint
    np.testing.assert_allclose(
        changed.log_odds(QUERIES, DOCUMENTS), cross_encoder.log_odds(QUERIES, DOCUMENTS) + 1, atol=1e-5
    )


def test_bad_input_is_named(cross_encoder, tmp_path, tokenizer):
    with pytest.raises(TextError, match="query 2: ' ' has no tokens"):
        cross_encoder.score(["rain", "city", " "], DOCUMENTS, np.array([(0, 0), (2, 1)]))
    with pytest.raises(TextError, match="document 1: ' ' has no tokens"):
        cross_encoder.rank("rain", ["a recipe", " "])
    with pytest.raises(InputError, match="got one string"):
        cross_encoder.score(QUERIES, "a recipe", np.array([(0, 0)]))
    with pytest.raises(InputError, match="no states"):
        cross_encoder.score(QUERIES, DOCUMENTS, np.array([(0, 0)]), with_states=True)
    with pytest.raises(InputError, match="a cross-encoder of 3 outputs"):
        CrossEncoderReranker.from_pretrained(save_cross_encoder(tmp_path, tokenizer, num_labels=3))


def test_a_score_that_is_not_finite_is_an_error_that_names_both_texts(tmp_path, tokenizer):
    folder = save_cross_encoder(tmp_path, tokenizer)
    weights = load_file(folder / "model.safetensors")
    token = tokenizer(" bread", add_special_tokens=False)["input_ids"][-1]
    weights["bert.embeddings.word_embeddings.weight"][token] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    poisoned = CrossEncoderReranker.from_pretrained(folder, device="cpu")
    with pytest.raises(TextError, match="document 1: 'cook bread' with query 0 'rain' has a score"):
        poisoned.rank("rain", ["a recipe", "cook bread"])
