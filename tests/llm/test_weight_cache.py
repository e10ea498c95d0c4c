"""The int8 engine from cached weights is the engine from the model, and never another LLM's."""

import dataclasses
import errno

import numpy as np
import pytest
import torch

from rabtriever.llm.int8 import weight_cache
from rabtriever.llm.int8.engine import Int8Engine
from rabtriever.llm.int8.weight_cache import WeightCache
from rabtriever.llm.int8.weights import LINEARS, Int8Weights
from rabtriever.llm.loading import load_llm

TEXTS = [[0, 5, 9, 30, 41, 7], [0, 5, 9, 11], [3, 8]]
PREFIXES = [[0, 5, 9], [0, 5]]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "int8"


@pytest.fixture(params=["float32", "bfloat16"])
def loaded(request, llm_folders):
    return load_llm(str(llm_folders["qwen2"]), device="cpu", backend="int8", dtype=request.param)


def cache_of(loaded):
    return WeightCache(loaded.weights_hash, loaded.model.config, loaded.model.dtype, Int8Weights)


def states(engine):
    rows = torch.tensor([1, 0])
    cached = engine.encode_with_prefix(engine.prefill(TEXTS[:2]), rows, TEXTS[:2])
    return torch.cat([engine.encode(TEXTS, "last"), engine.encode(TEXTS, "mean"), cached])


def no_model():
    raise AssertionError("the model was asked for")


def test_cached_weights_give_the_same_bits(loaded):
    expected = states(Int8Engine.create(lambda: loaded.model, PREFIXES))
    cold = Int8Engine.create(lambda: loaded.model, PREFIXES, cache_of(loaded))
    warm = Int8Engine.create(no_model, PREFIXES, cache_of(loaded))
    assert torch.equal(states(cold), expected) and torch.equal(states(warm), expected)
    for name in LINEARS:
        for a, b in zip(getattr(cold.weights, name), getattr(warm.weights, name), strict=True):
            np.testing.assert_array_equal(a, b)


def test_another_prompt_asks_for_the_model_once(loaded):
    Int8Engine.create(lambda: loaded.model, PREFIXES, cache_of(loaded))
    with pytest.raises(AssertionError, match="asked for"):
        Int8Engine.create(no_model, [[4, 4]], cache_of(loaded))
    expected = states(Int8Engine.create(lambda: loaded.model, [[4, 4]], cache_of(loaded)))
    assert torch.equal(states(Int8Engine.create(no_model, [[4, 4]], cache_of(loaded))), expected)


def test_other_weights_types_and_settings_have_other_folders(llm_folders):
    loaded = load_llm(str(llm_folders["llama"]), device="cpu", dtype="float32")
    folders = [cache_of(loaded).folder]
    for change in ({"rms_norm_eps": 0.1}, {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}):
        config = type(loaded.model.config)(**{**loaded.model.config.to_dict(), **change})
        folders.append(WeightCache(loaded.weights_hash, config, loaded.model.dtype, Int8Weights).folder)
    folders.append(cache_of(load_llm(str(llm_folders["llama"]), device="cpu", dtype="bfloat16")).folder)
    folders.append(cache_of(load_llm(str(llm_folders["qwen3"]), device="cpu", dtype="float32")).folder)
    folders.append(cache_of(dataclasses.replace(loaded, weights_hash=loaded.weights_hash + "adapter")).folder)
    assert len(set(folders)) == len(folders)
    assert folders[0] == cache_of(load_llm(str(llm_folders["llama"]), device="cpu", dtype="float32")).folder


@pytest.mark.parametrize("name", ["shape.json", "qkv-codes.npy", "embeddings.npy"])
def test_a_damaged_folder_is_written_anew(loaded, folder, name):
    expected = states(Int8Engine.create(lambda: loaded.model, PREFIXES, cache_of(loaded)))
    path = cache_of(loaded).folder / name
    path.write_bytes(path.read_bytes()[:50])
    assert torch.equal(states(Int8Engine.create(lambda: loaded.model, PREFIXES, cache_of(loaded))), expected)
    assert torch.equal(states(Int8Engine.create(no_model, PREFIXES, cache_of(loaded))), expected)
    for path in folder.rglob("*.npz"):
        path.write_bytes(b"damaged")
    assert torch.equal(states(Int8Engine.create(lambda: loaded.model, PREFIXES, cache_of(loaded))), expected)


def test_a_folder_that_cannot_be_written_costs_time_alone(loaded, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "file"))
    expected = states(Int8Engine.create(lambda: loaded.model, PREFIXES))
    assert torch.equal(states(Int8Engine.create(lambda: loaded.model, PREFIXES, cache_of(loaded))), expected)


def test_a_full_disk_leaves_nothing_behind(loaded, folder, monkeypatch):
    def full(file, *_, **__):
        file.write_bytes(b"some")
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(np, "save", full)
    monkeypatch.setattr(np, "savez", full)
    Int8Engine.create(lambda: loaded.model, PREFIXES, cache_of(loaded))
    assert list(folder.iterdir()) == []


def test_the_least_recently_used_llms_are_removed(llm_folders, monkeypatch):
    caches = []
    for name in ("llama", "qwen2", "qwen3"):
        loaded = load_llm(str(llm_folders[name]), device="cpu", dtype="float32")
        caches.append(cache_of(loaded))
        size = sum(file.stat().st_size for file in caches[0].folder.iterdir()) if caches[0].folder.exists() else 10**9
        monkeypatch.setattr(weight_cache, "MAX_CACHE_BYTES", 2.5 * size)
        Int8Engine.create(lambda loaded=loaded: loaded.model, PREFIXES, caches[-1])
        caches[0].load()
    assert [cache.folder.is_dir() for cache in caches] == [True, False, True]


def test_positions_are_rotated_as_transformers_rotates_them(llm_folders):
    for name in ("llama", "qwen3"):
        model = load_llm(str(llm_folders[name]), device="cpu", dtype="float32").model
        rope = Int8Engine.create(lambda model=model: model).rope
        expected = model.get_decoder().rotary_emb(torch.zeros(1), torch.arange(rope.shape[1])[None])
        np.testing.assert_array_equal(rope, torch.cat(expected)[:, :, : rope.shape[2]].numpy())
