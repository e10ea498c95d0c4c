"""Remembered labelled queries."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from encoders.models import HashEncoder
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring.predictors import random_predictor

from rabtriever.data import Document
from rabtriever.errors import InputError
from rabtriever.index import Index
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.examples import NEAREST, SCALE, SHARPNESS, Examples
from rabtriever.scoring.fusion import Fusion, text_keys


def unit(n, width, seed=0):
    states = np.random.default_rng(seed).normal(size=(n, width))
    return (states / np.linalg.norm(states, axis=1, keepdims=True)).astype(np.float32)


def make(queries, positives, documents, ridge, weight=1.0):
    keys = np.arange(len(documents), dtype=np.int64) * 7
    return Examples.of(queries, positives, keys, documents).with_strength(ridge, weight)


def by_definition(examples, query):
    """The shift of one query, as the module's text has it."""
    similarities = examples.queries.astype(np.float64) @ query
    order = np.argsort(-similarities, kind="stable")
    least = math.exp(SHARPNESS * (similarities[order[NEAREST]] - 1)) if len(order) > NEAREST else 0.0
    votes = Counter()
    for i in order[:NEAREST]:
        votes[int(examples.documents[i])] += examples.counts[i] * (math.exp(SHARPNESS * (similarities[i] - 1)) - least)
    shares = {d: math.copysign(math.log1p(SCALE * abs(of)), of) for d, of in votes.items()}
    return examples.weight * sum(share * examples.values[d] for d, share in shares.items())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 80), st.integers(1, 6), st.integers(0, 1000))
def test_a_shift_is_what_the_equation_says_in_batches_and_alone(n, n_documents, seed):
    rng = np.random.default_rng(seed)
    positives = [rng.choice(n_documents, rng.integers(1, n_documents + 1), replace=False).tolist() for _ in range(n)]
    examples = make(3 * unit(n, 16, seed), positives, unit(n_documents, 16, seed + 1), 0.3, 0.7)
    examples.counts[::3] = -0.5
    queries = unit(9, 16, seed + 2)
    found = examples.shift(2 * queries)  # lengths do not count
    np.testing.assert_allclose(found, [by_definition(examples, query) for query in queries], atol=1e-4)
    for query, row in zip(queries, found, strict=True):
        np.testing.assert_allclose(examples.shift(query[None])[0], row, atol=1e-5)


def test_many_queries_are_read_in_blocks(monkeypatch):
    examples = make(unit(50, 16), [[i % 4] for i in range(50)], unit(4, 16, 1), 1.0)
    queries = unit(23, 16, 2)
    whole = examples.shift(queries)
    monkeypatch.setattr("rabtriever.scoring.examples.BLOCK", 5)
    np.testing.assert_allclose(examples.shift(queries), whole, atol=1e-6)
    assert examples.shift(queries[:0]).shape == (0, 16)


def test_values_tell_labelled_documents_apart_and_share_with_the_similar():
    documents = unit(6, 16)
    exact = make(unit(5, 16, 1), [[0], [1], [2], [3], [4]], documents, 1e-6)
    np.testing.assert_allclose(exact.values @ documents[:5].T, np.eye(5), atol=2e-3)
    twin = documents[1] + 0.05 * documents[5]  # no label names it
    assert (exact.values @ twin).argmax() == 1
    mild = make(unit(5, 16, 1), [[0], [1], [2], [3], [4]], documents, 3.0)
    assert np.abs(mild.values).max() < np.abs(exact.values).max()


def test_joined_examples_are_those_of_both_and_later_ones_can_be_left_out():
    documents, queries = unit(6, 16), unit(80, 16, 1)
    positives = [[i % 5] for i in range(80)]
    whole = make(queries, positives, documents, 0.3)
    parts = make(queries[:33], positives[:33], documents, 0.3), make(queries[33:], positives[33:], documents, 0.3)
    joined = parts[0].joined(parts[1])
    asked = unit(9, 16, 2)
    np.testing.assert_allclose(joined.shift(asked), whole.shift(asked), atol=1e-5)
    assert len(joined) == 80 and joined.ridge == parts[0].ridge and sorted(joined.keys) == sorted(whole.keys)
    earlier = np.array([33] * 5 + [80] * 4)
    found = joined.votes(asked, earlier)
    first = make(queries[:33], positives[:33], documents, 0.3).votes(asked[:5])
    np.testing.assert_allclose(found[:5], first, atol=1e-5)
    np.testing.assert_allclose(found[5:], joined.votes(asked[5:]), atol=1e-5)
    assert (joined.votes(asked, np.zeros(9, int)) == 0).all()
    np.testing.assert_allclose(joined.select(np.arange(33)).votes(asked), first_of(joined, asked, 33), atol=1e-5)


def first_of(examples, asked, n):
    """Votes of the first n examples."""
    return examples.votes(asked, np.full(len(asked), n))


@pytest.fixture
def made():
    torch.manual_seed(0)
    encoder, texts = HashEncoder(), [f"text {i}" for i in range(30)]
    queries = [f"request {i}" for i in range(60)]
    given = encoder.encode_queries(queries), [[i % 20] for i in range(60)], encoder.encode_documents(texts)
    return encoder, texts, queries, make(*given, 0.3)


@pytest.mark.parametrize("kind", [None, "mlp", "quadratic"])
def test_a_retrievers_log_odds_gain_the_shifts_product(made, kind, tmp_path):
    encoder, texts, queries, examples = made
    predictor = random_predictor(12, 8, kind) if kind else None
    given = {"fusion": Fusion(20.0, 1.0, 0.25, -3.0), "trained_on": text_keys(texts[::2])}
    without = Rabtriever(encoder, predictor, **given)
    retriever = Rabtriever(encoder, predictor, **given, examples=examples)
    asked = [*queries[:3], "another"]
    z_q, z_d = encoder.encode_queries(asked), encoder.encode_documents(texts)
    base = without.similarity(without.encode_query(asked), without.encode_document(texts))
    expected = base + examples.shift(z_q) @ z_d.T
    found = retriever.similarity(retriever.encode_query(asked), retriever.encode_document(texts))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    gained = (found - base)[:3]
    assert (gained[[0, 1, 2], [0, 1, 2]] > gained.mean(1) + 0.5).all()  # what was labelled with it
    # An index of one serves the other: documents stay as they are.
    assert retriever.fingerprint == without.fingerprint
    Index.build(tmp_path / "index", without, [Document(str(i), text) for i, text in enumerate(texts)])
    index = Index.open(tmp_path / "index", retriever)
    for row, hits in zip(expected, index.search(asked, 5, mode="exact"), strict=True):
        np.testing.assert_allclose([hit.log_odds for hit in hits], sorted(row, reverse=True)[:5], atol=1e-3)
    if kind != "quadratic":
        hits = index.search(asked, 5, mode="encoder")
        for row, of_query in zip(20.0 * z_q @ z_d.T - 3.0, hits, strict=True):
            np.testing.assert_allclose([hit.log_odds for hit in of_query], sorted(row, reverse=True)[:5], atol=1e-3)


@pytest.mark.parametrize("kind", ["mlp", "quadratic"])
def test_documents_that_no_example_can_speak_for_get_a_share(made, kind):
    encoder, texts, queries, examples = made
    given = {"fusion": Fusion(20.0, 0.75, 0.25, -3.0), "trained_on": text_keys(texts[:20])}
    predictor, asked = random_predictor(12, 8, kind), queries[:4]
    plain = Rabtriever(encoder, predictor, **given, examples=examples)
    shared = Rabtriever(encoder, predictor, **given, examples=examples.with_strength(0.3, 1.0, 0.8))
    documents = plain.encode_document(texts)
    before, after = (one.similarity(one.encode_query(asked), documents) for one in (plain, shared))
    shift = examples.shift(encoder.encode_queries(asked))
    most = (shift @ examples.embeddings.T).max(1)
    np.testing.assert_allclose(after[:, :20], before[:, :20], atol=1e-3)
    np.testing.assert_allclose(after[:, 20:] - before[:, 20:], np.tile(0.8 * most[:, None], 10), atol=1e-3)


def test_without_a_similarity_there_is_nothing_to_move(made):
    encoder, *_, examples = made
    with pytest.raises(InputError, match="no similarity that they could move"):
        Rabtriever(encoder, random_predictor(12, 8, "mlp"), fusion=Fusion(0.0), examples=examples)


def test_a_saved_retriever_remembers_the_same(sentence_encoders, tmp_path):
    encoder, queries = sentence_encoders["bert"], ["rain", "a lamp", "bread and butter"]
    given = encoder.encode_queries(queries), [[0], [1], [1]], encoder.encode_documents(["weather", "house"])
    live = Rabtriever(encoder, examples=make(*given, 1.0, 0.5))
    live.save_pretrained(tmp_path / "model")
    loaded = Rabtriever.from_pretrained(tmp_path / "model", device="cpu", backend="torch")
    np.testing.assert_allclose(loaded.encode_query(queries), live.encode_query(queries), atol=1e-5)
    assert loaded.examples.weight == 0.5 and loaded.fingerprint == live.fingerprint
    (tmp_path / "model" / "examples.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="a broken retriever"):
        Rabtriever.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / "examples.safetensors").unlink()
    with pytest.raises(InputError, match="examples.safetensors is missing"):
        Rabtriever.from_pretrained(tmp_path / "model")
