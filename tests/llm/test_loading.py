import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import TEMPLATE
from transformers import AutoModelForCausalLM

from rabtriever.errors import InputError
from rabtriever.llm import weights
from rabtriever.llm.loading import choice_direction, load_base, load_llm
from rabtriever.llm.prompted import PromptedLLM
from rabtriever.llm.sources import is_path


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))


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
        assert llm.weights_hash != plain.weights_hash
    assert plain.weights_hash == load_llm(str(llm_folder), dtype=torch.bfloat16).weights_hash
    assert not any(weight.requires_grad for weight in plain.model.parameters())


def test_a_setting_beside_the_same_weights_is_another_model(llm_folder, adapter, tmp_path):
    base, (folder, _) = shutil.copytree(llm_folder, tmp_path / "base"), adapter

    def hash_with(path, **changed):
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, **changed}))
        return load_llm(str(base), folder, device="cpu").weights_hash

    config, lora = base / "config.json", folder / "adapter_config.json"
    whole = hash_with(config)
    assert hash_with(config, transformers_version="0") == hash_with(lora, base_model_name_or_path=None) == whole
    scaled = hash_with(lora, lora_alpha=1)
    rope = {"rope_type": "default", "rope_theta": 77.0}
    assert len({whole, scaled, hash_with(config, rope_parameters=rope)}) == 3


def test_an_adapter_is_merged_in_float32_whatever_the_data_type(llm_folder, adapter):
    merged = load_llm(str(llm_folder), adapter[0], dtype=torch.bfloat16, device="cpu").model.state_dict()
    exact = load_llm(str(llm_folder), adapter[0], dtype=torch.float32, device="cpu").model.state_dict()
    for name, weight in exact.items():
        torch.testing.assert_close(merged[name], weight.bfloat16(), atol=0, rtol=0)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_an_adapter_is_merged_without_the_whole_model_in_float32(llm_folder, adapter, tmp_path, monkeypatch, stored):
    base, tokenizer = load_base(str(llm_folder))
    base.to(stored).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    expected = PeftModel.from_pretrained(base.float(), adapter[0]).merge_and_unload().state_dict()
    loaded, load = [], weights.load_model
    monkeypatch.setattr(weights, "load_model", lambda *args: loaded.append(args[-1]) or load(*args))
    for dtype in (torch.bfloat16, torch.float32):
        merged = load_llm(str(tmp_path / "base"), adapter[0], dtype=dtype, device="cpu").model.state_dict()
        assert loaded.pop() == stored and merged.keys() == expected.keys()
        for name, weight in expected.items():
            torch.testing.assert_close(merged[name], weight.to(dtype), atol=0, rtol=0)


def test_the_model_is_loaded_once_when_it_is_needed(llm_folder, monkeypatch):
    loads, original = [], weights.load_model
    monkeypatch.setattr("rabtriever.llm.loading.load_model", lambda *args: loads.append(args) or original(*args))
    llm = PromptedLLM(load_llm(str(llm_folder), dtype="float32", device="cpu"), TEMPLATE)
    assert llm.hidden_size == 32 and llm.choice_direction.shape == (32,) and llm.fingerprint and not loads
    llm.backbone.states([[0, 5]])
    assert llm.loaded.model is llm.loaded.model and len(loads) == 1


def test_the_choice_direction_from_the_files_is_the_models(llm_folders, adapter, tmp_path):
    base, tokenizer = load_base(str(llm_folders["llama"]))
    everywhere = LoraConfig(target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    get_peft_model(base, everywhere).save_pretrained(tmp_path / "of lm_head")
    untied = tmp_path / "untied"
    base, _ = load_base(str(llm_folders["llama"]))
    base.config.tie_word_embeddings = False
    base.lm_head.weight = torch.nn.Parameter(torch.randn_like(base.lm_head.weight))
    base.save_pretrained(untied)
    tokenizer.save_pretrained(untied)
    of_lm_head = (str(llm_folders["llama"]), tmp_path / "of lm_head")
    for arguments in [*((str(path),) for path in llm_folders.values()), (str(untied),), (str(adapter[0]),), of_lm_head]:
        for dtype in ("float32", "bfloat16"):
            llm = load_llm(*arguments, dtype=dtype, device="cpu")
            w = llm.choice_direction((30, 40))
            assert (llm._model is None) == (arguments is not of_lm_head)
            torch.testing.assert_close(w, choice_direction(llm.model, (30, 40)), atol=0, rtol=0)


@pytest.mark.parametrize("name", ["empty", "broken.gguf", "missing.gguf", "no-such/model"])
def test_a_path_that_is_no_model_is_named(tmp_path, monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(InputError, match=name):
        load_llm(str(tmp_path / name) if "-" not in name else name)
    assert [path.name for path in tmp_path.glob("cache/*")] in ([], ["file_hashes.json"])


def test_broken_weights_are_an_input_error(llm_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(llm_folder, folder)
    weights = next(folder.glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:5000])
    with pytest.raises(InputError, match="no model could be loaded"):
        load_llm(str(folder))
    weights.unlink()
    with pytest.raises(InputError, match="no weights there"):
        load_llm(str(folder))
    weights.write_bytes(whole)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="no model could be loaded"):
        load_llm(str(folder))


def test_an_adapter_of_another_llm_is_refused(llm_folder, adapter, tmp_path):
    weights = adapter[0] / "adapter_model.safetensors"
    save_file({name: weight[:, :3].contiguous() for name, weight in load_file(weights).items()}, weights)
    with pytest.raises(InputError, match="does not fit its LLM"):
        load_llm(str(llm_folder), adapter[0]).model  # noqa: B018
    with pytest.raises(InputError, match="no PEFT adapter there"):
        load_llm(str(llm_folder), tmp_path)


def test_a_mistyped_path_is_not_looked_for_on_a_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert is_path("runs/nothing") and is_path("./x") and not is_path("owner/model") and not is_path("gpt2")


def test_a_model_of_the_hub_is_loaded_from_its_cache(llm_folder, tmp_path, monkeypatch):
    seen = []

    def download(name, allow_patterns, **options):
        seen.append((name, options))
        return str(llm_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    llm = load_llm("owner/model", device="cpu", revision="v1", token="t", local_files_only=True)
    assert seen == [("owner/model", {"revision": "v1", "token": "t", "local_files_only": True})]
    assert llm.source == "owner/model" and llm.revision == "v1"
    assert llm.weights_hash == load_llm(str(llm_folder), device="cpu").weights_hash


@pytest.mark.parametrize("with_adapter", [False, True])
def test_rope_frequencies_stay_exact(llm_folder, adapter, with_adapter):
    llm = load_llm(str(llm_folder), adapter[0] if with_adapter else None, dtype=torch.bfloat16, device="cpu")
    exact = AutoModelForCausalLM.from_pretrained(llm_folder, dtype=torch.float32).get_decoder().rotary_emb.inv_freq
    assert llm.model.dtype == torch.bfloat16
    torch.testing.assert_close(llm.model.get_decoder().rotary_emb.inv_freq, exact, atol=0, rtol=0)
