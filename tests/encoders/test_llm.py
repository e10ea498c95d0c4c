import numpy as np
import pytest
import torch
from tiny import make_reranker, make_retriever

from rabtriever.encoders.llm import LLMEncoder
from rabtriever.errors import TextError

DOCUMENTS = ["find the weather", "a recipe", "turn the lamp light for my table please"]


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_embeddings_are_the_llms_states_of_the_prompts_segments(reranker, pooling):
    llm, encoder = reranker.llm, LLMEncoder(reranker.llm, pooling)
    documents, queries = encoder.encode_documents(DOCUMENTS), encoder.encode_queries(DOCUMENTS)
    assert documents.dtype == queries.dtype == np.float32 and documents.shape == (3, encoder.hidden_size)
    for found, ids in (
        (documents, llm.prompt.document_ids(DOCUMENTS)),
        (queries, llm.prompt.query_ids(DOCUMENTS, with_bos=True)),
    ):
        hidden = [llm.loaded.model.get_decoder()(input_ids=torch.tensor([row])).last_hidden_state[0] for row in ids]
        expected = [states[1:].mean(0) if pooling == "mean" else states[-1] for states in hidden]
        np.testing.assert_allclose(found, torch.stack(expected).numpy(), atol=1e-5, rtol=1e-5)


def test_equal_texts_get_equal_embeddings(reranker):
    encoder = LLMEncoder(reranker.llm)
    texts = [*DOCUMENTS, *["a recipe"] * 5, "  a recipe\n"]
    states = encoder.encode_documents(texts)
    for row in range(3, 9):
        np.testing.assert_array_equal(states[row], states[1])
    np.testing.assert_allclose(states[:3], encoder.encode_documents(DOCUMENTS), atol=1e-5)
    assert encoder.encode_queries([]).shape == (0, encoder.hidden_size)


def test_tokens_are_counted_before_truncation(reranker):
    encoder = LLMEncoder(reranker.llm)
    assert encoder.count_tokens("document", ["rain", "rain " * 50]) == [1, 50]
    assert encoder.max_tokens("document") == 24 and encoder.max_tokens("query") == 24


def test_the_fingerprint_names_llm_and_pooling(reranker):
    fingerprints = {LLMEncoder(reranker.llm).fingerprint, LLMEncoder(reranker.llm, "last").fingerprint}
    assert len({*fingerprints, reranker.llm.fingerprint}) == 3


@pytest.mark.parametrize("backend", ["torch", "int8"])
def test_a_text_whose_state_is_not_finite_is_an_error_that_names_it(poisoned_folder, backend):
    reranker = make_reranker(poisoned_folder, backend=backend)
    encoder = LLMEncoder(reranker.llm)
    fault = "document 3: 'cook bread' makes the LLM's hidden state NaN or infinite; load the LLM in float32"
    with pytest.raises(TextError, match=fault):
        encoder.encode_documents(["rain", "city", "rain", "cook bread"])
    retriever = make_retriever(reranker)
    with pytest.raises(TextError, match="query 2: 'bake bread' makes") as caught:
        retriever.encode_query(["rain", "rain", "bake bread"])
    assert caught.value.position == 2 and retriever.cached_query("bake bread") is None
    with pytest.raises(TextError, match="document 1: 'cook bread' makes"):
        retriever.rank("rain", ["a lamp", "cook bread"])


def test_a_retriever_refuses_what_any_encoder_makes_not_finite(retriever, monkeypatch):
    def encode(texts, *_):
        states = np.ones((len(texts), retriever.encoder.hidden_size), np.float32)
        states[[text == "bread" for text in texts]] = np.nan
        return states

    monkeypatch.setattr(retriever.encoder, "encode_documents", encode)
    with pytest.raises(TextError, match="document 2: 'bread' has NaN") as caught:
        retriever.encode_document(["rain", "rain", "bread"])
    assert caught.value.position == 2
