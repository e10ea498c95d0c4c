import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from rabtriever.errors import InputError
from rabtriever.llm.loading import _file_digest, is_path, load_base, load_llm
from rabtriever.persistence.folder import atomic_folder


@pytest.fixture
def adapter(llm_folder, tmp_path):
    base, _ = load_base(str(llm_folder))
    model = get_peft_model(base, LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", model


def test_an_adapter_is_merged_and_names_its_base(llm_folder, adapter):
    folder, live = adapter
    ids = torch.tensor([[0, 5, 9, 30]])
    expected = live(input_ids=ids).logits
    plain = load_llm(str(llm_folder), dtype=torch.float32)
    for llm in (load_llm(str(folder), dtype=torch.float32), load_llm(str(llm_folder), folder, dtype=torch.float32)):
        torch.testing.assert_close(llm.model(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)
        assert llm.source == str(llm_folder) and llm.adapter == folder
        assert llm.digest != plain.digest
    assert plain.digest == load_llm(str(llm_folder), dtype=torch.bfloat16).digest
    assert not any(weight.requires_grad for weight in plain.model.parameters())


@pytest.mark.parametrize("name", ["empty", "broken.gguf", "missing.gguf", "no-such/model"])
def test_a_path_that_is_no_model_is_named(tmp_path, monkeypatch, name):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(InputError, match=name):
        load_llm(str(tmp_path / name) if "-" not in name else name)
    assert not list(tmp_path.glob("cache/*"))


def test_broken_weights_are_an_input_error(llm_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(llm_folder, folder)
    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(InputError, match="no model could be loaded"):
        load_llm(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="no model could be loaded"):
        load_llm(str(folder))


def test_an_adapter_of_another_llm_is_refused(llm_folder, adapter):
    weights = adapter[0] / "adapter_model.safetensors"
    save_file({name: weight[:, :3].contiguous() for name, weight in load_file(weights).items()}, weights)
    with pytest.raises(InputError, match="does not fit its LLM"):
        load_llm(str(llm_folder), adapter[0])


def test_a_mistyped_path_is_not_looked_for_on_a_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert is_path("runs/nothing") and is_path("./x") and not is_path("owner/model") and not is_path("gpt2")


def test_gguf_files_are_told_apart_by_their_content(tmp_path):
    one, two = tmp_path / "one.gguf", tmp_path / "two.gguf"
    one.write_bytes(bytes(100_000))
    two.write_bytes(bytes(90_000) + b"x" + bytes(9_999))
    assert _file_digest(one) != _file_digest(two)
    two.write_bytes(bytes(100_000))
    assert _file_digest(one) == _file_digest(two)


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "a") as folder:
        (folder / "half").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(tmp_path / "a") as folder:
        (folder / "whole").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["whole"]
    with pytest.raises(InputError, match="exists already"), atomic_folder(tmp_path / "a"):
        pass


def test_rotary_frequencies_stay_exact(llm_folder):
    llm = load_llm(str(llm_folder), dtype=torch.bfloat16, device="cpu", backend="torch")
    assert llm.model.dtype == torch.bfloat16
    assert llm.model.get_decoder().rotary_emb.inv_freq.dtype == torch.float32
