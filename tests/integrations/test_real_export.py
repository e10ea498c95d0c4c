"""MiniLM exported, its numbers compared."""

import numpy as np
import onnxruntime
import pytest
from integrations.retrievers import DOCUMENTS, NEW, QUERIES, log_odds, make_retriever
from sentence_transformers import SentenceTransformer

from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.integrations.onnx import save_onnx
from rabtriever.integrations.sentence_transformers import save_sentence_transformer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def minilm():
    return SentenceEncoder.from_pretrained("minilm", device="cpu", backend="torch")


def test_sentence_transformers(minilm, tmp_path):
    retriever = make_retriever(minilm)
    save_sentence_transformer(retriever, tmp_path / "model")
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    known = model.similarity(model.encode_query(QUERIES), model.encode_document(DOCUMENTS)).numpy()
    np.testing.assert_allclose(known, log_odds(retriever, QUERIES, DOCUMENTS), atol=1e-3)
    new = model.encode(NEW, task="new_document", prompt_name="document")
    found = model.similarity(model.encode_query(QUERIES), new).numpy()
    np.testing.assert_allclose(found, log_odds(retriever, QUERIES, NEW), atol=1e-3)


def test_onnx(minilm, tmp_path):
    retriever = make_retriever(minilm, "mlp", examples=50)
    save_onnx(retriever, tmp_path / "model")
    session = onnxruntime.InferenceSession(tmp_path / "model" / "model.onnx")
    for ids, expected in zip(minilm.tokenizers["query"].ids(QUERIES), retriever.encode_query(QUERIES), strict=True):
        given = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
        np.testing.assert_allclose(session.run(None, given)[0][0], expected, atol=1e-4)
