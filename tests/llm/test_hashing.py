import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from rabtriever.llm.hashing import CACHE, file_hash
from rabtriever.llm.loading import load_llm


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / CACHE


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(100_000))
    return path


def rewrite(path, content):
    """Writes other content of the same size, at another time."""
    then = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(then + 1, then + 1))


def test_a_change_anywhere_in_the_weights_changes_the_hash(llm_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(llm_folder, folder)
    path = folder / "model.safetensors"
    seen = {load_llm(str(folder), device="cpu").weights_hash}
    for name, weight in load_file(path).items():
        for index in (0, weight.numel() // 2 + 1, weight.numel() - 1):
            tensors = load_file(llm_folder / "model.safetensors")
            tensors[name].view(-1)[index] += 1
            save_file(tensors, path, {"format": "pt"})
            seen.add(load_llm(str(folder), device="cpu").weights_hash)
    assert len(seen) == 1 + 3 * len(load_file(path))


def test_the_hash_does_not_depend_on_path_device_or_dtype(llm_folder, tmp_path):
    shutil.copytree(llm_folder, tmp_path / "copy")
    options = ({"dtype": torch.float32}, {"dtype": "bfloat16"}, {"backend": "torch"})
    hashes = {
        load_llm(str(folder), **more).weights_hash for folder in (llm_folder, tmp_path / "copy") for more in options
    }
    assert len(hashes) == 1


def test_a_cached_hash_is_the_fresh_one_and_is_not_computed_again(file, cache, monkeypatch):
    fresh = file_hash(file)
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", None)  # cannot be called
        assert file_hash(file) == fresh
    cache.unlink()
    assert file_hash(file) == fresh


def test_a_changed_file_of_the_same_size_is_noticed(file):
    before = file_hash(file)
    rewrite(file, bytes(90_000) + b"x" + bytes(9_999))
    assert file_hash(file) != before
    rewrite(file, bytes(100_000))
    assert file_hash(file) == before


@pytest.mark.parametrize("content", ["{", "[]", '{"%s": 7}', '{"%s": []}'])
def test_a_broken_cache_is_replaced(file, cache, content):
    cache.parent.mkdir()
    cache.write_text(content.replace("%s", str(file)))
    fresh = file_hash(file)
    assert json.loads(cache.read_text())[str(file)][-1] == fresh


def test_a_cache_that_cannot_be_written_is_ignored(file, cache):
    cache.parent.write_text("a file where the folder should be")
    assert file_hash(file) == file_hash(file)


def test_files_that_are_gone_leave_the_cache(file, cache, tmp_path):
    file_hash(file)
    file.unlink()
    (tmp_path / "other").write_bytes(b"x")
    file_hash(tmp_path / "other")
    assert list(json.loads(cache.read_text())) == [str(tmp_path / "other")]
