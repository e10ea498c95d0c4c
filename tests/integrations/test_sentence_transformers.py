"""A saved SentenceTransformer gives the retriever's log-odds, also where this package cannot be imported."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from encoders.models import save_sentence_model
from integrations.retrievers import DOCUMENTS, NEW, QUERIES, log_odds, make_retriever
from sentence_transformers import SentenceTransformer

from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.errors import ConflictError, InputError
from rabtriever.integrations.sentence_transformers import save_sentence_transformer
from rabtriever.integrations.vectors import document_vectors, query_vectors

ELSEWHERE = """
import json, sys
sys.modules["rabtriever"] = None
from sentence_transformers import SentenceTransformer
queries, documents, *folders = json.load(sys.stdin)
for folder in folders:
    model = SentenceTransformer(folder, device="cpu", local_files_only=True)
    scores = model.similarity(model.encode_query(queries), model.encode_document(documents))
    json.dump(scores.tolist(), open(folder + "/scores.json", "w"))
assert not any(name.startswith("rabtriever.") for name in sys.modules)
"""


def load(folder):
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def scores_of(model, queries, documents):
    return model.similarity(model.encode_query(queries), model.encode_document(documents)).numpy()


def scores_elsewhere(*folders):
    """Log-odds of a process that cannot import rabtriever."""
    given = json.dumps([QUERIES, DOCUMENTS, *map(str, folders)])
    done = subprocess.run([sys.executable, "-I", "-c", ELSEWHERE], input=given, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return [np.array(json.loads((folder / "scores.json").read_text())) for folder in folders]


def test_retriever_and_tuned_encoder_load_without_this_package(tokenizer, tmp_path):
    folder = save_sentence_model(tmp_path / "tuned", tokenizer)
    encoder = SentenceEncoder.from_pretrained(str(folder), device="cpu", backend="torch", owned=True)
    retriever = make_retriever(encoder)
    retriever.save_pretrained(tmp_path / "retriever")  # the encoder that it owns is one already
    save_sentence_transformer(retriever, tmp_path / "model")
    found, similarity = scores_elsewhere(tmp_path / "model", tmp_path / "retriever" / "encoder")
    expected = log_odds(retriever, QUERIES, DOCUMENTS)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert (np.argsort(-found, axis=1)[:, :10] == np.argsort(-expected, axis=1)[:, :10]).all()
    cosine = encoder.encode_queries(QUERIES) @ encoder.encode_documents(DOCUMENTS).T
    np.testing.assert_allclose(similarity, cosine, atol=1e-5)


OPTIONS = [{"new_gain": 1.0}, {"beta": 0.0}, {"kind": None}, {"gain": 2.0, "center": -3.0}, {"adapted": True}]


@pytest.mark.parametrize("options", OPTIONS)
def test_vectors_are_those_of_the_vectors_module(sentence_encoders, tmp_path, options):
    retriever = make_retriever(sentence_encoders["mpnet"], **options)
    save_sentence_transformer(retriever, tmp_path / "model")
    model = load(tmp_path / "model")
    np.testing.assert_allclose(model.encode_query(QUERIES), query_vectors(retriever, QUERIES), atol=1e-4)
    np.testing.assert_allclose(model.encode_document(DOCUMENTS), document_vectors(retriever, DOCUMENTS), atol=1e-4)
    assert model.similarity_fn_name == "dot"


def test_new_documents_have_a_route_of_their_own(sentence_encoders, tmp_path):
    retriever = make_retriever(sentence_encoders["bert"])
    save_sentence_transformer(retriever, tmp_path / "model")
    found = load(tmp_path / "model").encode(NEW, task="new_document", prompt_name="document")
    np.testing.assert_allclose(found, document_vectors(retriever, NEW), atol=1e-4)
    assert np.abs(load(tmp_path / "model").encode_document(NEW) - found).max() > 0.1


def test_prompts_and_fewer_dimensions(tokenizer, tmp_path):
    folder = save_sentence_model(tmp_path / "encoder", tokenizer, dense=(24,), normalize=False)
    options = {"device": "cpu", "backend": "torch", "truncate_dim": 16, "query_prompt": "find: "}
    retriever = make_retriever(SentenceEncoder.from_pretrained(str(folder), **options))
    save_sentence_transformer(retriever, tmp_path / "model")
    found = scores_of(load(tmp_path / "model"), QUERIES, DOCUMENTS)
    np.testing.assert_allclose(found, log_odds(retriever, QUERIES, DOCUMENTS), atol=1e-3)


def test_squares_are_exact_for_any_embedding(sentence_encoders, tmp_path):
    """Also for those that are as far from zero as one of length one can be."""
    retriever = make_retriever(sentence_encoders["bert"])
    save_sentence_transformer(retriever, tmp_path / "model")
    dense = list(load(tmp_path / "model")[0].sub_modules["query"])[-2:]
    far = retriever.predictor.fold().query_map.weight.T
    states = np.concatenate([far, -far]) / np.linalg.norm(np.concatenate([far, -far]), axis=1, keepdims=True)
    features = {"sentence_embedding": torch.from_numpy(states.astype(np.float32))}
    for layer in dense:
        features = layer(features)
    latents = retriever.query_latents(states.astype(np.float32), None)
    np.testing.assert_allclose(features["sentence_embedding"][:, -3].detach(), latents[:, -2], rtol=1e-4)


def test_what_stock_modules_cannot_express_is_refused(sentence_encoders, retriever, tokenizer, tmp_path):
    encoder = sentence_encoders["bert"]
    unbounded = save_sentence_model(tmp_path / "dot", tokenizer, normalize=False, similarity_fn_name="dot")
    dot = SentenceEncoder.from_pretrained(str(unbounded), device="cpu", backend="torch")
    for refused, words in (
        (make_retriever(encoder, "mlp"), "--predictor quadratic"),
        (make_retriever(encoder, examples=5), "--without-examples"),
        (make_retriever(dot), "squares have no bound"),
    ):
        with pytest.raises(InputError, match=words):
            save_sentence_transformer(refused, tmp_path / "model")
        assert not (tmp_path / "model").exists()
    retriever.correction = False  # of an LLM's states, whose mlp would be refused first
    with pytest.raises(InputError, match="its encoder is an LLM"):
        save_sentence_transformer(retriever, tmp_path / "model")
    save_sentence_transformer(make_retriever(dot, None), tmp_path / "similarity")  # no squares, no bound
    found = scores_of(load(tmp_path / "similarity"), QUERIES, DOCUMENTS)
    np.testing.assert_allclose(found, log_odds(make_retriever(dot, None), QUERIES, DOCUMENTS), rtol=1e-4, atol=1e-3)
    with pytest.raises(ConflictError):
        save_sentence_transformer(make_retriever(encoder), tmp_path / "similarity")
