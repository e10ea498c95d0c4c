"""Saved = live, whatever a retriever is made of."""

import json
import shutil

import numpy as np
import pytest
import torch
from scoring.predictors import random_predictor
from tiny import TEMPLATE, make_reranker

from rabtriever import load_reranker
from rabtriever.encoders.llm import LLMEncoder
from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.errors import InputError
from rabtriever.llm.prompt import PromptTemplate
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.calibration import Calibration
from rabtriever.scoring.fusion import Fusion, text_keys
from rabtriever.scoring.refusal import Refusal

QUERIES = ["rain", "please show me the weather for my city"]
DOCUMENTS = ["find the weather", "a recipe", "turn the lamp light"]
FUSION = Fusion(25.0, 0.75, 0.25, -1.0, 0.5)
OTHER_PROMPT = PromptTemplate(query="Ask: {query}", document_tokens=24, query_tokens=24)
LLM_OPTIONS = {"device": "cpu", "dtype": "float32", "backend": "torch"}
OPTIONS = {"device": "cpu", "backend": "torch"}


@pytest.fixture
def folders(sentence_folders, llm_folders, tmp_path):
    """Copies of a sentence-transformers model and of two LLMs, side by side."""
    (tmp_path / "models").mkdir()
    shutil.copytree(sentence_folders["bert"], tmp_path / "models" / "sentence")
    for name in ("llama", "qwen2"):
        shutil.copytree(llm_folders[name], tmp_path / "models" / name)
    return tmp_path / "models"


def make(folders, encoder, reranker=None, kind="mlp", prompt=TEMPLATE):
    """A retriever over ``sentence`` or an LLM's folder, with a predictor of a kind or none, and an LLM as reranker."""
    torch.manual_seed(0)
    if encoder == "sentence":
        over = SentenceEncoder.from_pretrained(
            str(folders / encoder), truncate_dim=24, query_prompt="show: ", **OPTIONS
        )
    else:
        over = LLMEncoder(make_reranker(folders / encoder, prompt, backend="torch", dtype="float32").llm, "last")
    predictor = random_predictor(over.hidden_size, 8, kind, 1) if kind else None
    fusion = FUSION if predictor and over.has_similarity else None
    given = make_reranker(folders / reranker, backend="torch", dtype="float32") if reranker else None
    if given:
        given.calibration = Calibration(2.0, -1.0)
    known = text_keys(DOCUMENTS[:2])
    calibration, refusal = Calibration(3.0, 1.0, 0.5), Refusal.fit(np.arange(100.0))
    return Rabtriever(over, predictor, calibration, given, fusion=fusion, trained_on=known, refusal=refusal)


def assert_same(loaded, live):
    assert loaded.fingerprint == live.fingerprint and loaded.layout == live.layout
    assert loaded.fusion == live.fusion and loaded.calibration == live.calibration
    assert loaded.refusal == live.refusal and loaded.refusal.limits == live.refusal.limits
    assert (loaded.predictor is None) == (live.predictor is None) and (loaded.reranker is None) == (
        live.reranker is None
    )
    np.testing.assert_array_equal(loaded.trained_on, live.trained_on)
    np.testing.assert_allclose(loaded.encode_query(QUERIES), live.encode_query(QUERIES), atol=1e-5)
    np.testing.assert_allclose(loaded.encode_document(DOCUMENTS), live.encode_document(DOCUMENTS), atol=1e-5)
    if live.reranker:
        assert loaded.reranker.fingerprint == live.reranker.fingerprint
        assert loaded.reranker.calibration == live.reranker.calibration
        found, expected = (one.reranker.log_odds(QUERIES, DOCUMENTS) for one in (loaded, live))
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    "parts",
    [
        ("sentence", None, None),
        ("sentence", "llama", None),
        ("sentence", None, "mlp"),
        ("sentence", "llama", "quadratic"),
        ("llama", None, "mlp"),
        ("llama", "llama", "mlp"),
        ("llama", "qwen2", "mlp"),  # the same prompt, another LLM
        ("llama", "llama", "quadratic", OTHER_PROMPT),  # the same LLM, another prompt
    ],
    ids=lambda parts: "-".join(part if isinstance(part, str) else "none" for part in parts[:3]),
)
def test_saved_is_live_after_all_its_folders_moved(folders, tmp_path, parts):
    encoder, reranker, kind, *prompt = parts
    live = make(folders, encoder, reranker, kind, *prompt)
    live.save_pretrained(folders / "out" / "retriever", {"data": "tiny"})
    config = json.loads((folders / "out" / "retriever" / "rabtriever.json").read_text())
    for path in (folders / "out").rglob("*.*"):
        text = path.read_text() if path.suffix in (".json", ".md") else ""
        assert str(tmp_path) not in text, path
    assert config["format"] == 3 and config["data"] == "tiny"
    assert_same(Rabtriever.from_pretrained(folders / "out" / "retriever", **LLM_OPTIONS), live)
    folders.rename(tmp_path / "moved")
    loaded = Rabtriever.from_pretrained(tmp_path / "moved" / "out" / "retriever", **LLM_OPTIONS)
    assert_same(loaded, live)
    loaded.save_pretrained(tmp_path / "again")
    assert_same(Rabtriever.from_pretrained(tmp_path / "again", **LLM_OPTIONS), live)


def test_what_changes_no_ranking_changes_no_fingerprint(folders):
    live = make(folders, "sentence", "llama")
    encoder, predictor, known = live.encoder, live.predictor, live.trained_on
    same = Rabtriever(encoder, predictor, fusion=Fusion(25.0, 0.75, 0.25, -1.0, rerank=1.0), trained_on=known[::-1])
    assert same.fingerprint == live.fingerprint
    others = [
        Fusion(24.0, 0.75, 0.25, -1.0),
        Fusion(25.0, 0.5, 0.25, -1.0),
        Fusion(25.0, 0.75, 0.5, -1.0),
        Fusion(25.0),
    ]
    made = [Rabtriever(encoder, predictor, fusion=fusion, trained_on=known).fingerprint for fusion in others]
    made += [Rabtriever(encoder, predictor, fusion=FUSION).fingerprint, Rabtriever(encoder).fingerprint]
    assert len({live.fingerprint, *made}) == 1 + len(made)


def test_the_folder_is_also_the_reranker_if_there_is_one(folders):
    live = make(folders, "sentence", "llama")
    live.save_pretrained(folders / "with")
    reranker = load_reranker(folders / "with", **LLM_OPTIONS)
    assert isinstance(reranker, GenerativeReranker) and reranker.fingerprint == live.reranker.fingerprint
    assert reranker.calibration == Calibration(2.0, -1.0)
    make(folders, "sentence").save_pretrained(folders / "without")
    with pytest.raises(InputError, match="without: .*reranker") as caught:
        load_reranker(folders / "without", **LLM_OPTIONS)
    assert "\n" not in str(caught.value)


def test_an_encoder_that_is_gone_is_named(folders):
    make(folders, "sentence").save_pretrained(folders / "model")
    (folders / "sentence").rename(folders / "elsewhere")
    with pytest.raises(InputError, match=f"{folders}/sentence") as caught:
        Rabtriever.from_pretrained(folders / "model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"fusion": {"beta": -1}}, "fusion.beta"),
        ({"fusion": {"magic": 1}}, "a broken retriever"),
        ({"calibration": {"retriever": {"magic": 1}}}, "a broken retriever"),
        ({"encoder": {"kind": "magic", "name": "./nowhere"}}, "encoder 'magic'"),
        ({"predictor": {"kind": "mlp"}}, "a broken retriever"),
        ({"predictor": {"hidden_size": "many"}}, "a broken retriever"),
    ],
)
def test_a_configuration_of_other_values_is_one_line(folders, change, fault):
    make(folders, "sentence").save_pretrained(folders / "model")
    path = folders / "model" / "rabtriever.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=fault) as caught:
        Rabtriever.from_pretrained(folders / "model")
    assert "\n" not in str(caught.value)


def test_an_llm_alone_has_no_similarity_to_rank_by(llm_folder):
    with pytest.raises(InputError, match="no similarity to rank by"):
        Rabtriever.from_encoder(llm_folder, **LLM_OPTIONS)
