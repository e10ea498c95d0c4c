import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rabtriever.errors import InputError
from rabtriever.llm import sources
from rabtriever.llm.sources import convert_gguf, find_model


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    return path


def save(_: Path, folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def test_a_file_is_converted_once(file, monkeypatch):
    calls = []
    monkeypatch.setattr(sources, "_save_converted", lambda *args: calls.append(args) or save(*args))
    folder = convert_gguf(file)
    assert convert_gguf(file) == folder and len(calls) == 1
    file.write_bytes(b"other weights")
    assert convert_gguf(file) != folder and len(calls) == 2


def test_of_two_first_starts_the_slower_uses_the_folder_of_the_faster(file, cache, monkeypatch):
    both = threading.Barrier(2)

    def slow(path, folder):
        both.wait(10)  # neither may find the other's folder when it begins
        save(path, folder)

    monkeypatch.setattr(sources, "_save_converted", slow)
    with ThreadPoolExecutor(2) as pool:
        folders = set(pool.map(convert_gguf, [file, file]))
    assert len(folders) == 1 and (folders.pop() / "config.json").is_file()
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1  # nothing temporary is left


def test_a_conversion_that_fails_leaves_nothing(file, cache):
    with pytest.raises(InputError, match="not a GGUF file that transformers can read"):
        convert_gguf(file)
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_gguf_model_is_identified_by_its_file_and_not_by_the_conversion(file, monkeypatch):
    monkeypatch.setattr(sources, "_save_converted", save)
    assert find_model(str(file)).weights == [file]
    monkeypatch.setattr("rabtriever.llm.sources.alias_file", lambda: file)
    assert find_model("smollm2") == find_model(str(file))
