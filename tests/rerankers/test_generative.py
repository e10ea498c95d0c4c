import numpy as np
import pytest
import torch
from tiny import TEMPLATE, make_reranker

from rabtriever.errors import InputError, TextError
from rabtriever.llm.prompted import PromptedLLM
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.scoring.calibration import Calibration

QUERIES = ["rain", "please show me the weather for my city"]
DOCUMENTS = ["find the weather", "a recipe", "turn the lamp light"]


def test_predict_rank_and_log_odds_agree(reranker):
    log_odds = reranker.log_odds(QUERIES, DOCUMENTS)
    assert log_odds.dtype == np.float32 and log_odds.shape == (2, 3)
    probabilities = reranker.predict((query, document) for query in QUERIES for document in DOCUMENTS)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-log_odds.ravel())), rtol=1e-4)
    ranking = reranker.rank(QUERIES[1], DOCUMENTS)
    assert [hit["corpus_id"] for hit in ranking] == list(np.argsort(-log_odds[1]))
    assert reranker.rank(QUERIES[1], DOCUMENTS, top_k=1) == ranking[:1]


def test_scores_do_not_depend_on_the_other_texts(reranker):
    together = reranker.log_odds(QUERIES, DOCUMENTS)
    for q, query in enumerate(QUERIES):
        for d, document in enumerate(DOCUMENTS):
            assert reranker.log_odds([query], [document])[0, 0] == pytest.approx(together[q, d], abs=1e-4)


def test_some_pairs_are_scored_as_all_are(reranker):
    log_odds = reranker.log_odds(QUERIES, DOCUMENTS)
    pairs = np.array([(1, 2), (0, 0), (1, 2), (1, 1)])
    scores = reranker.score(QUERIES, DOCUMENTS, pairs, with_states=True)
    np.testing.assert_allclose(scores.log_odds, log_odds[pairs[:, 0], pairs[:, 1]], atol=1e-4)
    assert scores.states.shape == (4, reranker.llm.hidden_size) and scores.states.dtype == np.float32
    np.testing.assert_allclose(scores.states @ reranker.llm.choice_direction.numpy(), scores.log_odds, atol=1e-4)
    assert reranker.score(QUERIES, DOCUMENTS, pairs).states is None


def test_only_texts_that_occur_in_pairs_are_tokenised(reranker, monkeypatch):
    seen, tokenize = [], type(reranker.llm.prompt)._tokenize_field
    monkeypatch.setattr(
        type(reranker.llm.prompt),
        "_tokenize_field",
        lambda self, name, texts: seen.extend(texts) or tokenize(self, name, texts),
    )
    reranker.score(QUERIES, [*DOCUMENTS, " "], np.array([(1, 2), (1, 0)]))
    assert sorted(seen) == sorted([QUERIES[1], DOCUMENTS[0], DOCUMENTS[2]])


def test_states_are_held_batch_by_batch(reranker, monkeypatch):
    """Without ``with_states`` nothing of the size of all pairs' states is allocated."""
    sizes, empty = [], torch.empty
    monkeypatch.setattr(reranker.llm.backbone.engine, "token_budget", 32)
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: sizes.append(shape) or empty(*shape, **options))
    batches, pair_states = [], reranker.llm.backbone.pair_states

    def spy(*arguments):
        for rows, states in pair_states(*arguments):
            batches.append(len(rows))
            yield rows, states

    monkeypatch.setattr(reranker.llm.backbone, "pair_states", spy)
    documents = [f"{document} {word}" for document in DOCUMENTS for word in ("table", "city", "music")]
    reranker.log_odds(QUERIES, documents)
    assert (18,) in sizes and (18, reranker.llm.hidden_size) not in sizes
    assert sum(batches) == 18 and max(batches) < 9


def test_nothing_to_score(reranker):
    assert reranker.predict([]).shape == (0,)
    assert reranker.rank("rain", []) == []
    assert reranker.log_odds([], DOCUMENTS).shape == (0, 3)


def test_the_fingerprint_names_weights_and_prompt(reranker, llm_folder, llm_folders):
    same = GenerativeReranker(PromptedLLM(reranker.llm.loaded, TEMPLATE), Calibration(2.0))
    other = GenerativeReranker.from_pretrained(llm_folder, dtype=torch.float32)
    another = GenerativeReranker.from_pretrained(llm_folders["qwen2"], dtype=torch.float32)
    assert same.fingerprint == reranker.fingerprint
    assert len({reranker.fingerprint, other.fingerprint, another.fingerprint}) == 3  # another prompt, another LLM


def test_bad_input_is_named(reranker, tmp_path):
    with pytest.raises(InputError, match="list of \\(query, document\\) pairs"):
        reranker.predict(("rain", "a recipe"))
    with pytest.raises(TextError, match="document 1: ' ' has no tokens") as caught:
        reranker.rank("rain", ["a recipe", " "])
    assert caught.value.position == 1
    with pytest.raises(TextError, match="query 2: ' ' has no tokens"):
        reranker.score(["rain", "city", " "], DOCUMENTS, np.array([(0, 0), (2, 1)]))
    with pytest.raises(InputError, match="top_k 0"):
        reranker.rank("rain", DOCUMENTS, top_k=0)
    with pytest.raises(InputError, match="no-model-here"):
        GenerativeReranker.from_pretrained(tmp_path / "no-model-here")


@pytest.mark.parametrize("backend", ["torch", "int8"])
def test_a_pair_whose_state_is_not_finite_is_an_error_that_names_both_texts(poisoned_folder, backend):
    reranker = make_reranker(poisoned_folder, backend=backend)
    assert np.isfinite(reranker.log_odds(QUERIES, DOCUMENTS)).all()
    with pytest.raises(
        TextError, match="document 2: 'cook bread' with query 0 'rain' makes the LLM's hidden"
    ) as caught:
        reranker.rank("rain", ["a recipe", "a recipe", "cook bread"])
    assert caught.value.position == 2
    with pytest.raises(TextError, match="document 1: 'a recipe' with query 1 'bake bread' makes"):
        reranker.predict([("rain", "city"), ("bake bread", "a recipe")])
