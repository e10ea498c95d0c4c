"""A second start needs none of transformers' model code and finds the same configuration and tokenizer."""

import json
import shutil
import subprocess
import sys

import pytest
from transformers import AutoConfig, AutoTokenizer

from rabtriever.llm.config_cache import CachedConfig, load_config, load_tokenizer


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral", "gemma3_text"])
def test_a_cached_configuration_has_the_same_values(llm_folders, name):
    expected = AutoConfig.from_pretrained(llm_folders[name])
    load_config(llm_folders[name])
    cached = load_config(llm_folders[name])
    assert isinstance(cached, CachedConfig) and cached.get_text_config() is cached
    assert vars(cached) == json.loads(json.dumps(expected.to_dict()))
    for field in ("hidden_size", "head_dim", "model_type", "rope_parameters", "sliding_window", "layer_types"):
        assert getattr(cached, field, None) == getattr(expected, field, None)


def test_another_configuration_is_read(llm_folder, tmp_path):
    load_config(llm_folder)
    other = shutil.copytree(llm_folder, tmp_path / "other")
    values = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**values, "rms_norm_eps": 0.25}))
    assert load_config(other).rms_norm_eps == load_config(other).rms_norm_eps == 0.25
    assert load_config(llm_folder).rms_norm_eps == values["rms_norm_eps"]


def test_a_damaged_or_unwritable_cache_is_none(llm_folder, tmp_path, monkeypatch):
    expected = load_config(llm_folder).hidden_size
    [path] = (tmp_path / "cache" / "configs").iterdir()
    path.write_text("{")
    assert load_config(llm_folder).hidden_size == expected
    monkeypatch.setenv("RABTRIEVER_CACHE", str(path))
    assert load_config(llm_folder).hidden_size == expected


def test_the_tokenizer_is_the_same(llm_folder):
    expected, found = AutoTokenizer.from_pretrained(llm_folder), load_tokenizer(llm_folder)
    assert type(found) is type(expected) and found.init_kwargs == expected.init_kwargs
    assert found.backend_tokenizer.to_str() == expected.backend_tokenizer.to_str()


def test_a_warm_start_loads_no_model_code(llm_folder):
    code = (
        "import sys\n"
        "from rabtriever.llm.loading import load_llm\n"
        "from rabtriever.llm.engines import create_engine\n"
        f"llm = load_llm({str(llm_folder)!r}, backend='int8', device='cpu', dtype='float32')\n"
        "print(create_engine(llm, [[0, 5]]).encode([[0, 5, 9]], 'last').sum().item())\n"
        "print([name for name in ('torch._dynamo', 'transformers.modeling_utils') if name in sys.modules])\n"
    )
    cold, warm = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")
        for _ in range(2)
    )
    assert cold[0] == warm[0] and cold[1] != "[]" and warm[1] == "[]"
