"""A linear map of queries, where documents stay."""

from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from training.teaching import QUICK, contents, log_odds_of, own_distiller

from rabtriever.data import Document, RetrievalData
from rabtriever.errors import InputError
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.examples import Examples
from rabtriever.scoring.fusion import text_keys
from rabtriever.training import query_adapter
from rabtriever.training.config import DistillConfig
from rabtriever.training.distiller import Distiller
from rabtriever.training.new_documents import Setting
from rabtriever.training.query_adapter import fit_regression
from rabtriever.training.teacher import Teacher

STAY = DistillConfig(
    teacher_calls=0, rounds=2, steps=30, hidden_units=2, new_document_gain=1.0, examples=0, learning_rate=1e-2
)
TOPICS = ["weather", "flight", "recipe", "music", "lamp", "sponge"]


@pytest.fixture(scope="module")
def rotated():
    """Requests that are labelled with the document of another topic, so that a linear map is what there is to learn."""
    documents = {topic: Document(topic, f"find the {topic}") for topic in TOPICS}
    places = [f"{i} {word}" for i in range(12) for word in ("now", "here", "soon", "once", "again")]
    asked = [(f"{topic} {place}", TOPICS[i - 1]) for i, topic in enumerate(TOPICS) for place in places]
    queries = {f"q{i}": text for i, (text, _) in enumerate(asked)}
    labels = {f"q{i}": {topic: 1} for i, (_, topic) in enumerate(asked)}
    test = {query: labels[query] for query in list(labels)[::7]}
    train = {query: of for query, of in labels.items() if query not in test}
    return RetrievalData("rotated", documents, queries, {"train": train, "test": test})


@pytest.fixture(scope="module")
def distilled(sentence_encoders, rotated):
    """A distiller whose predictor has learnt next to nothing, and its retriever."""
    distiller = Distiller(sentence_encoders["bert"], Teacher(), STAY)
    return distiller, distiller.train(rotated)


def recall(retriever, data, split="test"):
    queries = data.labelled_queries(split)
    found = log_odds_of(retriever, data, list(queries.values())).argmax(1)
    right = [TOPICS.index(next(iter(data.qrels[split][query]))) for query in queries]
    return float((found == right).mean())


def test_it_learns_the_link_that_the_encoder_does_not_see(distilled, rotated, sentence_encoders):
    assert distilled[1].query_adapter is not None and distilled[1].query_adapter.dtype == np.float32
    assert recall(distilled[1], rotated) > recall(Rabtriever(sentence_encoders["bert"]), rotated) + 0.3


def test_folded_is_unfolded(distilled, rotated):
    distiller, retriever = distilled
    texts = list(rotated.queries.values())[:9]
    states = torch.from_numpy(distiller.encoder.encode_queries(texts))
    gain, z_d = retriever.fusion.gain, torch.from_numpy(distiller.encoder.encode_documents(contents(rotated)))
    with torch.no_grad():
        expected = distiller.student.log_odds(states, z_d, gain, retriever.fusion.center)
    found = log_odds_of(retriever, rotated, texts)
    np.testing.assert_allclose(found, expected + retriever.fusion.offset, atol=1e-3)


def test_folded_is_unfolded_beside_examples(distilled, rotated):
    student, retriever = distilled[0].student, distilled[1]
    texts = list(rotated.queries.values())
    states, documents = retriever.encoder.encode_queries(texts), retriever.encoder.encode_documents(contents(rotated))
    positives = [
        [TOPICS.index(next(iter(rotated.qrels[s][q]))) for s in rotated.qrels if q in rotated.qrels[s]]
        for q in rotated.queries
    ]
    examples = Examples.of(states, positives, text_keys(contents(rotated)), documents).with_strength(0.3, 2.0)
    options = {"fusion": retriever.fusion, "query_adapter": retriever.query_adapter, "examples": examples}
    both = Rabtriever(retriever.encoder, retriever.predictor, **options)
    student = copy(student)
    student.examples = examples
    with torch.no_grad():
        z_q, z_d = torch.from_numpy(states[:9]), torch.from_numpy(documents)
        expected = student.log_odds(z_q, z_d, retriever.fusion.gain, retriever.fusion.center)
    np.testing.assert_allclose(log_odds_of(both, rotated, texts[:9]), expected + both.fusion.offset, atol=1e-3)


@pytest.mark.parametrize(("without", "stays"), [(0.5, True), (0.9, False), (0.95, False)])
def test_it_has_to_beat_the_examples_that_do_without_it(distilled, monkeypatch, without, stays):
    distiller, plain = distilled[0], copy(distilled[0].student)
    plain.query_adapter = None

    def measured(student, data, gains, settings, examples):
        return dict.fromkeys(settings, without if student.query_adapter is None else 0.9)

    monkeypatch.setattr(query_adapter, "measure_settings", measured)
    fitted = query_adapter.fit_query_adapter(plain, 1.0, distiller.data, 20.0, None, Setting())
    assert (fitted is not None) == stays


def test_saved_is_live(distilled, rotated, tmp_path):
    distilled[1].save_pretrained(tmp_path / "model")
    loaded = Rabtriever.from_pretrained(tmp_path / "model", device="cpu", backend="torch", dtype="float32")
    texts = list(rotated.queries.values())[:9]
    np.testing.assert_array_equal(loaded.query_adapter, distilled[1].query_adapter)
    np.testing.assert_allclose(
        log_odds_of(loaded, rotated, texts), log_odds_of(distilled[1], rotated, texts), atol=1e-4
    )


def test_modes_without_the_correction_do_without_it(distilled, rotated, sentence_encoders):
    retriever, zero_shot = distilled[1], Rabtriever(sentence_encoders["bert"])
    texts = list(rotated.queries.values())[:9]
    expected = log_odds_of(zero_shot, rotated, texts).argmax(1)
    assert (log_odds_of(retriever, rotated, texts).argmax(1) != expected).any()
    documents = retriever.encode_document(contents(rotated))
    plain = retriever.encoder_only(retriever.encode_query(texts), texts)
    np.testing.assert_array_equal(retriever.similarity(plain, documents).argmax(1), expected)
    states = retriever.encoder.encode_queries(texts)
    alone = retriever.similarity(retriever.query_latents(states, None, False), documents)
    np.testing.assert_array_equal(alone.argmax(1), expected)


def test_none_is_fitted_where_documents_come_later_or_are_many(sentence_encoders, rotated, monkeypatch):
    def train(config):
        return Distiller(sentence_encoders["bert"], Teacher(), config).train(rotated).query_adapter

    assert train(replace(STAY, new_document_gain=0.25)) is None
    monkeypatch.setattr(query_adapter, "MAX_DOCUMENTS", 5)
    assert train(STAY) is None


def test_documents_without_labels_are_named(sentence_encoders, rotated):
    more = replace(rotated, documents={**rotated.documents, "oven": Document("oven", "find the oven")})
    with pytest.warns(UserWarning, match="nothing says what 1 of 7 documents are right for"):
        Distiller(sentence_encoders["bert"], Teacher(), STAY).prepare(more)


def test_the_papers_mode_has_none(tiny_data, reranker):
    assert own_distiller(reranker, replace(QUICK, new_document_gain=1.0)).train(tiny_data).query_adapter is None


def test_what_cannot_be_adapted_is_refused(retriever, distilled):
    made = distilled[1]
    for given, words in (
        ((retriever.encoder, retriever.predictor, np.eye(4)), "no similarity"),
        ((made.encoder, None, made.query_adapter), "no predictor"),
        ((made.encoder, made.predictor, np.eye(3)), "3x3, its encoder gives"),
    ):
        encoder, predictor, adapter = given
        fusion = made.fusion if encoder is made.encoder else None
        with pytest.raises(InputError, match=words):
            Rabtriever(encoder, predictor, fusion=fusion, query_adapter=adapter)


def test_any_layout_and_type_is_saved(distilled, tmp_path):
    made, adapter = distilled[1], distilled[1].query_adapter.astype(np.float64).T
    turned = Rabtriever(made.encoder, made.predictor, fusion=made.fusion, query_adapter=adapter)
    turned.save_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(Rabtriever.from_pretrained(tmp_path / "model").query_adapter, adapter)


def test_the_regression_is_at_its_optimum():
    generator = torch.Generator().manual_seed(0)
    z_q = torch.randn(60, 5, generator=generator)
    targets = torch.eye(4)[torch.randint(4, (60,), generator=generator)]
    offsets, penalty = torch.randn(60, 4, generator=generator), 0.1
    w = fit_regression(z_q, offsets, targets, penalty).requires_grad_()
    scale = 1 / z_q.std(0).mean()
    loss = -(targets * torch.log_softmax(offsets + z_q @ w, 1)).sum(1).mean()
    loss = loss + penalty / 2 * (w / scale).square().sum()
    loss.backward()
    assert w.grad is not None and w.grad.abs().max() < 1e-3
