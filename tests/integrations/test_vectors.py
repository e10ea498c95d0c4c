import numpy as np
import pytest
from integrations.retrievers import DOCUMENTS, NEW, QUERIES, log_odds, make_retriever

from rabtriever.errors import InputError
from rabtriever.integrations.vectors import document_vectors, query_vectors


@pytest.mark.parametrize(
    "options", [{}, {"examples": 50}, {"beta": 0.0}, {"kind": None}, {"kind": None, "examples": 5, "beta": 20.0}]
)
def test_an_inner_product_is_the_log_odds(sentence_encoders, options):
    retriever = make_retriever(sentence_encoders["bert"], **options)
    queries, documents = query_vectors(retriever, QUERIES), document_vectors(retriever, DOCUMENTS + NEW)
    assert queries.dtype == documents.dtype == np.float32
    assert queries.shape[1] == documents.shape[1] == retriever.layout.n_inner + 3
    np.testing.assert_allclose(queries @ documents.T, log_odds(retriever, QUERIES, DOCUMENTS + NEW), atol=1e-4)


def test_no_texts_are_no_vectors(sentence_encoders):
    retriever = make_retriever(sentence_encoders["bert"])
    assert query_vectors(retriever, []).shape == (0, retriever.layout.n_inner + 3)


def test_an_mlp_is_refused_in_one_line(sentence_encoders):
    retriever = make_retriever(sentence_encoders["bert"], "mlp")
    for vectors, texts in ((query_vectors, QUERIES), (document_vectors, DOCUMENTS)):
        with pytest.raises(InputError, match=r"^retriever: its mlp is no inner product; .*--predictor quadratic"):
            vectors(retriever, texts)


def test_an_mlp_whose_correction_does_not_count_is_an_inner_product(sentence_encoders):
    retriever = make_retriever(sentence_encoders["bert"], "mlp")
    retriever.correction = False
    scores = query_vectors(retriever, QUERIES) @ document_vectors(retriever, DOCUMENTS).T
    np.testing.assert_allclose(scores, log_odds(retriever, QUERIES, DOCUMENTS), atol=1e-4)
