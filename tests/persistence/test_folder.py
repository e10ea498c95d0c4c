import json
import os
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import TEMPLATE, make_retriever

from rabtriever.caching import cache_dir
from rabtriever.errors import ConflictError, InputError, NotFoundError, StorageError
from rabtriever.llm.loading import load_llm
from rabtriever.llm.prompted import PromptedLLM
from rabtriever.persistence.folder import absolute_path, atomic_folder, read_config, require_absent
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.retriever import Rabtriever

OPTIONS = {"dtype": torch.float32, "device": "cpu"}


@pytest.fixture
def adapter(llm_folder, tmp_path):
    """A LoRA adapter over a copy of the tiny LLM; peft writes the LLM's absolute path into it."""
    shutil.copytree(llm_folder, tmp_path / "llm")
    torch.manual_seed(0)
    base = load_llm(str(tmp_path / "llm"), **OPTIONS).model
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(str(tmp_path / "adapter"))
    settings = tmp_path / "adapter" / "adapter_config.json"
    settings.write_text(
        json.dumps({**json.loads(settings.read_text()), "base_model_name_or_path": str(tmp_path / "llm")})
    )
    return tmp_path / "adapter"


@pytest.fixture
def adapted(adapter, tmp_path):
    """A retriever on the adapted LLM, saved as tmp_path / "model"."""
    llm = PromptedLLM(load_llm(str(tmp_path / "llm"), adapter, **OPTIONS), TEMPLATE)
    retriever = make_retriever(GenerativeReranker(llm))
    retriever.save_pretrained(tmp_path / "model")
    return retriever


def test_no_absolute_path_is_saved(adapted, tmp_path):
    files = [path for path in (tmp_path / "model").rglob("*") if path.suffix in (".json", ".md", ".jsonl")]
    assert {path.name for path in files} == {"rabtriever.json", "adapter_config.json", "README.md"}
    for path in files:
        assert str(tmp_path) not in path.read_text(), path
    assert json.loads((tmp_path / "model" / "rabtriever.json").read_text())["llm"] == "../llm"
    assert read_config(tmp_path / "model")["llm"] == str(tmp_path / "llm")


def test_a_model_moves_together_with_its_llm(adapted, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for name in ("llm", "model"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    loaded = Rabtriever.from_pretrained(tmp_path / "elsewhere" / "model", **OPTIONS)
    assert loaded.fingerprint == adapted.fingerprint
    (tmp_path / "elsewhere" / "model").rename(tmp_path / "model")
    with pytest.raises(InputError, match=f"{tmp_path}/llm: no model there"):
        Rabtriever.from_pretrained(tmp_path / "model", **OPTIONS)


def test_a_model_without_its_adapter_is_not_loaded_as_another(adapted, tmp_path):
    shutil.rmtree(tmp_path / "model" / "adapter")
    for load in (Rabtriever.from_pretrained, GenerativeReranker.from_pretrained):
        with pytest.raises(InputError, match="its folder adapter is missing"):
            load(tmp_path / "model", **OPTIONS)


def test_saving_over_something_is_refused_and_leaves_it(retriever, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").touch()
    with pytest.raises(ConflictError, match="exists already"):
        retriever.save_pretrained(tmp_path / "model")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "mine"]
    require_absent(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    retriever.save_pretrained(tmp_path / "empty")


def test_a_folder_that_could_not_be_filled_is_not_there(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "new") as folder:
        (folder / "half").touch()
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_what_is_saved_can_be_read_by_others(retriever, tmp_path):
    retriever.save_pretrained(tmp_path / "model")
    modes = {os.stat(path).st_mode & 0o777 for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert modes == {0o644} and os.stat(tmp_path / "model").st_mode & 0o777 == 0o755


def test_a_configuration_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(NotFoundError, match="no model there"):
        read_config(tmp_path)
    path = tmp_path / "rabtriever.json"
    for text, message in (
        ("{", "not a model configuration"),
        ("[]", "not a model configuration"),
        ('{"format": 3, "prompt": {}}', "not a model configuration"),
        ('{"format": 3, "llm": "x"}', "not a model configuration"),
        ('{"format": 3, "prompt": {}, "llm": 3}', "not a model configuration"),
        ('{"format": 3, "encoder": {"kind": "sentence", "name": "x"}}', "not a model configuration"),
        ('{"format": 3, "encoder": {"name": "x"}, "fusion": {}, "calibration": {}}', "not a model configuration"),
        ('{"format": 3, "encoder": [], "fusion": {}, "calibration": {}}', "not a model configuration"),
        ('{"format": 2, "prompt": {}, "llm": "x"}', "format 2, this release reads 3"),
        ('{"format": 99}', "format 99, this release reads 3"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_config(tmp_path)


def test_an_empty_folder_that_exists_is_filled_where_it_is(retriever, tmp_path, monkeypatch):
    """It may be a link, the current folder, or where another disk is mounted, whose parent cannot be written."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    before = (tmp_path / "disk").stat().st_ino
    monkeypatch.setattr(os, "replace", lambda *paths: pytest.fail(f"renames {paths}"))
    retriever.save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk").stat().st_ino == before
    saved = read_config(tmp_path / "disk")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    retriever.save_pretrained(".")
    assert read_config(".") == saved  # paths to the LLM count from the place, not from the temporary folder
    assert sorted(os.listdir(tmp_path / "here")) == sorted(os.listdir(tmp_path / "disk"))
    assert "rabtriever.json" in os.listdir(tmp_path / "disk") and "here" in (tmp_path / "here/README.md").read_text()
    assert not [name for name in os.listdir(tmp_path / "disk") if name.startswith(".")]


def test_a_folder_that_could_not_be_filled_stays_empty(tmp_path):
    (tmp_path / "place").mkdir()
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "place") as folder:
        (folder / "half").touch()
        raise RuntimeError
    assert not list((tmp_path / "place").iterdir())
    with pytest.raises(ConflictError, match="exists already"), atomic_folder(tmp_path / "place") as folder:
        (folder / "mine").touch()
        (tmp_path / "place" / "of-another").touch()
    assert os.listdir(tmp_path / "place") == ["of-another"]


def test_what_a_killed_process_left_in_a_place_does_not_take_it(tmp_path):
    old = tmp_path / "place" / ".unfinished-old"
    old.mkdir(parents=True)
    os.utime(old, (0, 0))
    with atomic_folder(tmp_path / "place") as folder:
        (folder / "whole").touch()
    assert os.listdir(tmp_path / "place") == ["whole"]


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file/x: cannot be made .*file is a file"):
        require_absent(tmp_path / "file" / "x")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # a read-only mount; root may write elsewhere
    for check in (require_absent, lambda path: atomic_folder(path).__enter__()):
        with pytest.raises(StorageError, match="new/x: cannot be made .*cannot be written.*another folder"):
            check(tmp_path / "new" / "x")
    assert not (tmp_path / "new").exists()


def test_an_error_of_the_disk_is_one_line(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="new: cannot be made .No space left on device."):
        with atomic_folder(tmp_path / "new"):
            pass
    assert not list(tmp_path.iterdir())


def test_a_path_means_what_it_meant_when_it_was_given(adapter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RABTRIEVER_CACHE", "cache")
    (tmp_path / "elsewhere").mkdir()
    llm = load_llm("llm", "adapter", **OPTIONS)
    fingerprint = make_retriever(GenerativeReranker(PromptedLLM(llm, TEMPLATE))).fingerprint
    assert load_llm("~/adapter", **OPTIONS).adapter == tmp_path / "adapter"  # which names its own base
    retriever = make_retriever(GenerativeReranker(PromptedLLM(llm, TEMPLATE)))
    folder = cache_dir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    retriever.save_pretrained("~/model")
    assert folder == tmp_path / "cache"
    monkeypatch.chdir(tmp_path)
    loaded = Rabtriever.from_pretrained("model", **OPTIONS)
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded.save_pretrained(tmp_path / "copy")
    assert loaded.fingerprint == fingerprint and loaded.name_or_path == str(tmp_path / "copy")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_file_keeps_its_name_behind_a_link(tmp_path):
    (tmp_path / "0123abcd").touch()
    (tmp_path / "llm.gguf").symlink_to(tmp_path / "0123abcd")  # as the hub's cache keeps files
    assert absolute_path(tmp_path / "llm.gguf") == tmp_path / "llm.gguf"
