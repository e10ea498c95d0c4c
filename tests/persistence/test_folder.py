import json
import os
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import TEMPLATE, make_retriever

from rabtriever.errors import ConflictError, InputError, NotFoundError
from rabtriever.llm.loading import load_llm
from rabtriever.llm.prompted import PromptedLLM
from rabtriever.persistence.folder import atomic_folder, read_config, require_absent
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
