import numpy as np
import pytest
import torch

from rabtriever.errors import InputError
from rabtriever.rerankers.generative import GenerativeReranker

QUERIES = ["rain", "please show me the weather for my city"]
DOCUMENTS = ["find the weather", "a recipe", "turn the lamp light"]


def test_predict_rank_and_log_odds_agree(reranker):
    log_odds = reranker.log_odds(QUERIES, DOCUMENTS)
    assert log_odds.dtype == np.float32 and log_odds.shape == (2, 3)
    probabilities = reranker.predict([(query, document) for query in QUERIES for document in DOCUMENTS])
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-log_odds.ravel())), rtol=1e-4)
    ranking = reranker.rank(QUERIES[1], DOCUMENTS)
    assert [hit["corpus_id"] for hit in ranking] == list(np.argsort(-log_odds[1]))
    assert reranker.rank(QUERIES[1], DOCUMENTS, top_k=1) == ranking[:1]


def test_scores_do_not_depend_on_company(reranker):
    together = reranker.log_odds(QUERIES, DOCUMENTS)
    for q, query in enumerate(QUERIES):
        for d, document in enumerate(DOCUMENTS):
            assert reranker.log_odds([query], [document])[0, 0] == pytest.approx(together[q, d], abs=1e-4)


def test_nothing_to_score(reranker):
    assert reranker.predict([]).shape == (0,)
    assert reranker.rank("rain", []) == []


def test_the_fingerprint_names_weights_and_prompt(reranker, llm_folder, llm_folders):
    same = GenerativeReranker(reranker.llm, reranker.template)
    other = GenerativeReranker.from_pretrained(llm_folder, dtype=torch.float32)
    another = GenerativeReranker.from_pretrained(llm_folders["qwen2"], dtype=torch.float32)
    assert same.fingerprint == reranker.fingerprint
    assert len({reranker.fingerprint, other.fingerprint, another.fingerprint}) == 3  # another prompt, another LLM


def test_bad_input_is_named(reranker, tmp_path):
    with pytest.raises(InputError, match="list of \\(query, document\\) pairs"):
        reranker.predict(("rain", "a recipe"))
    with pytest.raises(InputError, match="document 1"):
        reranker.rank("rain", ["a recipe", " "])
    with pytest.raises(InputError, match="no-model-here"):
        GenerativeReranker.from_pretrained(tmp_path / "no-model-here")
