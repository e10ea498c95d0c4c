import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from encoders.models import save_sentence_model
from safetensors.torch import load_file

from rabtriever.data import Document, RetrievalData
from rabtriever.encoders.llm import LLMEncoder
from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.errors import ConflictError, InputError
from rabtriever.retriever import Rabtriever
from rabtriever.training import tune_encoder as module
from rabtriever.training import tuning_batches
from rabtriever.training.config import DistillConfig, TuneEncoderConfig
from rabtriever.training.distill import distill
from rabtriever.training.distiller import Distiller
from rabtriever.training.encoded_data import encode_data
from rabtriever.training.teacher import Teacher
from rabtriever.training.tune_encoder import CHECKPOINT, choose_alpha, tune_encoder
from rabtriever.training.tuned_model import TunedModel, save_interpolated
from rabtriever.training.tuning_batches import TuningBatches

DISTIL = DistillConfig(rounds=2, steps=20, hidden_units=8)
QUICK = TuneEncoderConfig(steps=40, queries_per_step=8, learning_rate=3e-3, lora_rank=4)
NOUNS = "weather rain wind city flight hotel recipe bread music song lamp sponge table".split()
TEXTS = ["please show rain", "find me a bread recipe in the city", "lamp"]


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    return save_sentence_model(
        tmp_path_factory.mktemp("student") / "model", tokenizer, prompts={"query": "show: ", "document": "the "}
    )


@pytest.fixture
def encoder(folder):
    return load(folder)


@pytest.fixture
def teacher():
    return Teacher.of([NounEncoder()])


@pytest.fixture
def data():
    """Thirteen documents, and requests without labels."""
    documents = {noun: Document(noun, f"{noun} {noun}", noun) for noun in NOUNS}
    phrases = ("please", "show", "my", "the")
    queries = {f"{noun}{i}": f"{phrase} {noun}" for noun in NOUNS for i, phrase in enumerate(phrases)}
    return RetrievalData("nouns", documents, queries, {})


@pytest.fixture
def distiller(data, encoder, teacher):
    return prepared(data, encoder, teacher)


@pytest.fixture
def all_tuned(monkeypatch):
    """The choice falls on the tuned weights."""
    monkeypatch.setattr(module, "choose_alpha", lambda recalls: 1.0)


def load(folder, **options):
    return SentenceEncoder.from_pretrained(str(folder), device="cpu", backend="torch", **options)


def prepared(data, encoder, teacher, *callbacks):
    made = Distiller(encoder, teacher, DISTIL, callbacks)
    made.prepare(data)
    return made


class NounEncoder:
    """A teacher that knows which document a request is for: an embedding counts nouns."""

    fingerprint = numerics = "nouns"
    has_similarity, hidden_size, owned_folder = True, len(NOUNS), None

    def encode_queries(self, texts, *options):
        counts = np.array([[float(noun in text.split()) for noun in NOUNS] for text in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    encode_documents = encode_queries

    def describe(self):
        return {"name": "nouns", "backend": "counting"}


class Log:
    def __init__(self, stop_at=None):
        self.lines, self.stop_at = [], stop_at

    def on_log(self, step, metrics):
        self.lines.append({"step": step, **metrics})
        if step == self.stop_at:
            raise KeyboardInterrupt


def weights_of(encoder):
    return load_file(encoder.model.folder / "model.safetensors")


def test_the_loss_falls_and_the_original_stays(data, encoder, teacher, tmp_path):
    log, before = Log(), encoder.encode_queries(TEXTS)
    config = replace(QUICK, steps=60, queries_per_step=40)
    found = tune_encoder(prepared(data, encoder, teacher, log), tmp_path / "out", config)
    losses = [line["encoder/loss"] for line in log.lines if "encoder/loss" in line]
    assert len(losses) == 6 and losses[-1] < 0.75 * losses[0]
    np.testing.assert_array_equal(encoder.encode_queries(TEXTS), before)
    assert set(found.recalls) == {0.0, 0.5, 1.0} and log.lines[-1]["encoder/alpha"] == found.alpha
    assert found.recalls[1.0]["dev"] > found.recalls[0.0]["dev"]


@pytest.mark.parametrize(
    ("dev", "new", "best"),
    [
        ((0.5, 0.6, 0.7), (0.5, 0.5, 0.5), 1.0),
        ((0.5, 0.6, 0.7), (0.5, 0.5, 0.4), 0.5),
        ((0.5, 0.6, 0.7), (0.5, 0.4, 0.4), 0.0),
        ((0.5, 0.5, 0.5), (0.5, 0.6, 0.7), 0.0),
        ((0.5, 0.7, 0.7), (0.5, 0.6, 0.7), 0.5),
    ],
)
def test_alpha_is_the_best_on_dev_that_loses_nothing_on_new_documents(dev, new, best):
    recalls = {a: {"dev": d, "new": n} for a, d, n in zip((0.0, 0.5, 1.0), dev, new, strict=True)}
    assert choose_alpha(recalls) == best


def test_what_brings_nothing_leaves_the_original_encoder(data, encoder, teacher, tmp_path):
    idle = TuneEncoderConfig(steps=1, learning_rate=1e-12)
    assert tune_encoder(prepared(data, encoder, teacher), tmp_path / "first", idle).encoder is encoder
    retriever = distill(data, teacher, tmp_path / "out", DISTIL, encoder=encoder, tune_encoder=idle)
    assert retriever.encoder is encoder and not (tmp_path / "out" / "encoder").exists()
    saved = json.loads((tmp_path / "out" / "rabtriever.json").read_text())
    assert saved["encoder_tuning"]["alpha"] == 0 and "owned" not in saved["encoder"]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_resumed_tuning_is_an_uninterrupted_one(data, encoder, teacher, tmp_path, monkeypatch, method, all_tuned):
    monkeypatch.setattr(module, "CHECKPOINT_EVERY", 4)
    monkeypatch.setattr(tuning_batches, "MAX_DOCUMENTS", 6)
    config = replace(QUICK, method=method, steps=24)
    whole = tune_encoder(prepared(data, encoder, teacher), tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        tune_encoder(prepared(data, encoder, teacher, Log(stop_at=10)), tmp_path / "out", config)
    assert (tmp_path / "out.partial" / CHECKPOINT).is_file()
    log = Log()
    resumed = tune_encoder(prepared(data, encoder, teacher, log), tmp_path / "out", config)
    assert log.lines[0]["step"] == 10  # from step 8, the last checkpoint
    expected, found = weights_of(whole.encoder), weights_of(resumed.encoder)
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    with pytest.raises(ConflictError, match="other options"):
        tune_encoder(prepared(data, encoder, teacher), tmp_path / "out", replace(config, seed=1))


@pytest.mark.parametrize("change", [{}, {"truncate_dim": 12, "query_prompt": "play ", "document_prompt": ""}])
def test_the_folder_is_a_plain_sentence_transformers_model(data, folder, teacher, tmp_path, all_tuned, change):
    from sentence_transformers import SentenceTransformer

    original = load(folder, **change)
    encoder = tune_encoder(prepared(data, original, teacher), tmp_path / "out", QUICK).encoder
    assert encoder.hidden_size == original.hidden_size and encoder.model.prompts == original.model.prompts
    plain = SentenceTransformer(str(encoder.owned_folder), device="cpu")
    queries, documents = plain.encode_query(TEXTS), plain.encode_document(TEXTS)
    for ours, theirs in ((encoder.encode_queries(TEXTS), queries), (encoder.encode_documents(TEXTS), documents)):
        np.testing.assert_allclose(ours, theirs / np.linalg.norm(theirs, axis=1, keepdims=True), atol=1e-5)
    assert np.abs(encoder.encode_queries(TEXTS) - original.encode_queries(TEXTS)).max() > 0.01


def test_a_merged_adapter_is_the_adapter_applied(encoder, tmp_path):
    model = TunedModel(encoder, replace(QUICK, method="lora"))
    assert all("lora_" in name for name in model.trained)
    with torch.no_grad():
        for weight in model.trained.values():
            weight.normal_(std=0.1)
    applied = model.states("query", TEXTS).numpy()
    save_interpolated(encoder.model, model.merge(), 1.0, tmp_path)
    merged = load(tmp_path).encode_queries(TEXTS)
    assert np.abs(applied - encoder.encode_queries(TEXTS)).max() > 0.05
    np.testing.assert_allclose(merged, applied, atol=0.02)  # which may be bfloat16's


def test_interpolation_is_weight_by_weight(encoder, tmp_path):
    model = TunedModel(encoder, QUICK)
    with torch.no_grad():
        for weight in model.trained.values():
            weight.add_(1.0)
    tuned, original = model.merge(), weights_of(encoder)
    for alpha in (0.0, 0.25):
        (tmp_path / str(alpha)).mkdir()
        save_interpolated(encoder.model, tuned, alpha, tmp_path / str(alpha))
        for name, weight in weights_of(load(tmp_path / str(alpha))).items():
            torch.testing.assert_close(weight, original[name] + alpha, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(load(tmp_path / "0.0").encode_queries(TEXTS), encoder.encode_queries(TEXTS))


@pytest.mark.parametrize("labelled", [False, True])
def test_held_out_documents_and_requests_for_them_are_never_seen(
    data, encoder, teacher, tmp_path, monkeypatch, labelled
):
    if labelled:
        data.qrels["train"] = {query: {query[:-1]: 1} for query in data.queries}
    seen = {"query": set(), "document": set()}
    embed = TunedModel.embed
    monkeypatch.setattr(tuning_batches, "MAX_DOCUMENTS", 6)
    monkeypatch.setattr(
        TunedModel, "embed", lambda self, kind, texts: seen[kind].update(texts) or embed(self, kind, texts)
    )
    made = prepared(data, encoder, teacher)
    held = TuningBatches(made.data, made.targets, made.listed, QUICK).held_out(300)
    held_documents = {made.data.documents[document] for found in held.positives for document in found}
    tune_encoder(made, tmp_path / "out", QUICK)
    assert held.texts and not seen["query"] & set(held.texts)
    assert held_documents and not seen["document"] & held_documents
    assert seen["query"] | set(held.texts) == set(made.data.train.texts)
    assert len(seen["document"]) >= len(NOUNS) - 2
    if labelled:
        asked = [made.data.documents[document].split(":")[0] for [document] in held.positives]
        assert [text.split()[-1] for text in held.texts] == asked


def test_dev_queries_keep_their_order_so_that_a_resumed_run_is_the_same_run(data):
    texts = [f"{NOUNS[i % len(NOUNS)]} {i}" for i in range(200)]
    found = encode_data(replace(data, queries={f"q{i}": text for i, text in enumerate(texts)}), NounEncoder(), None, 0)
    assert len(found.dev) > 5 and found.dev.texts == sorted(found.dev.texts, key=texts.index)


def test_a_step_holds_what_its_requests_ask_for_and_what_is_mistaken_for_it(distiller, encoder, monkeypatch):
    monkeypatch.setattr(tuning_batches, "MAX_DOCUMENTS", 6)
    model = TunedModel(encoder, QUICK)
    batches = TuningBatches(distiller.data, distiller.targets, distiller.listed, replace(QUICK, queries_per_step=2))
    batches.refresh(model, 0)
    documents = []
    embed = model.embed
    monkeypatch.setattr(model, "embed", lambda kind, texts: documents.append((kind, texts)) or embed(kind, texts))
    model.modules.eval()
    loss = batches.loss(model, 3)
    (_, queries), (_, chosen) = documents
    assert len(queries) == 2 and len(chosen) == 6
    z_q, z_d = encoder.encode_queries(queries), encoder.encode_documents(distiller.data.documents)
    known, texts = batches._known.numpy(), np.array(distiller.data.documents)
    right = {text for text in texts for query in queries if text.split()[-1] == query.split()[-1]}
    first = known[(z_q @ z_d[known].T).argmax(1)]
    assert {*right, *texts[first]} <= set(chosen)
    torch.testing.assert_close(batches.loss(model, 3), loss)  # what is drawn depends on the step alone


def test_a_retriever_owns_its_tuned_encoder(data, encoder, teacher, tmp_path, all_tuned):
    made = distill(data, teacher, tmp_path / "out", DISTIL, encoder=encoder, tune_encoder=QUICK)
    assert not (tmp_path / "out.partial").exists() and made.encoder.owned_folder == tmp_path / "out" / "encoder"
    expected = made.encode_query(TEXTS), made.encode_document(TEXTS)
    shutil.move(tmp_path / "out", tmp_path / "moved")
    for path in (tmp_path / "moved").rglob("*.json"):
        assert str(tmp_path) not in path.read_text(), path
    moved = Rabtriever.from_pretrained(tmp_path / "moved", device="cpu", backend="torch")
    moved.save_pretrained(tmp_path / "again")
    shutil.rmtree(tmp_path / "moved")
    again = Rabtriever.from_pretrained(tmp_path / "again", device="cpu", backend="torch")
    assert made.fingerprint == moved.fingerprint == again.fingerprint
    np.testing.assert_array_equal(again.encode_query(TEXTS), expected[0])
    np.testing.assert_array_equal(again.encode_document(TEXTS), expected[1])
    notes = json.loads((tmp_path / "again" / "rabtriever.json").read_text())
    assert notes["encoder"] == {"kind": "sentence", "name": "./encoder", "owned": True}


def test_rerankers_pairs_serve_both_halves(data, encoder, reranker, tmp_path, all_tuned):
    config = replace(DISTIL, teacher_calls=240, pairs_per_query=3)
    teacher = Teacher.of(rerankers=[reranker])
    made = distill(data, teacher, tmp_path / "out", config, encoder=encoder, tune_encoder=replace(QUICK, steps=4))
    notes = json.loads((tmp_path / "out" / "rabtriever.json").read_text())
    assert 120 < notes["teacher_calls"] <= 240 and notes["training"]["teacher_calls"] == 240
    assert made.reranker.fingerprint == reranker.fingerprint


def test_what_cannot_be_tuned_is_refused(data, encoder, teacher, reranker, tmp_path):
    with pytest.raises(InputError, match="needs a folder"):
        distill(data, teacher, None, DISTIL, encoder=encoder, tune_encoder="full")
    with pytest.raises(InputError, match="method 'half'"):
        distill(data, teacher, tmp_path / "out", DISTIL, encoder=encoder, tune_encoder="half")
    with pytest.raises(InputError, match="no sentence-transformers model"):
        tune_encoder(Distiller(LLMEncoder(reranker.llm), Teacher.of(rerankers=[reranker])), tmp_path / "out")
    one = replace(data, documents=dict(list(data.documents.items())[:2]))
    with pytest.raises(InputError, match="fewer than two documents"):
        tune_encoder(prepared(one, encoder, teacher), tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()
