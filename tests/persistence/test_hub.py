import json

import numpy as np
import pytest
from tiny import make_retriever

from rabtriever import load_reranker
from rabtriever.errors import InputError, NotFoundError
from rabtriever.persistence.hub import is_hub_id, resolve_model, shipped_model
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.retriever import Rabtriever

QUERIES = ["please show the weather", "cook bread"]
OPTIONS = {"dtype": "float32", "device": "cpu"}


@pytest.fixture
def published(hub, llm_folder, tmp_path):
    """The tiny LLM on the hub, and a retriever on it."""
    hub.publish("org/tiny-llm", llm_folder)
    retriever = make_retriever(GenerativeReranker.from_pretrained("org/tiny-llm", **OPTIONS))
    retriever.save_pretrained(tmp_path / "saved")
    hub.publish("org/retriever", tmp_path / "saved")
    hub.requests.clear()
    return retriever


def test_a_hub_id_is_downloaded_once_and_then_found_without_the_hub(hub, published, monkeypatch):
    with pytest.raises(NotFoundError, match="org/retriever: no model on the hub or in its cache"):
        Rabtriever.from_pretrained("org/retriever", local_files_only=True)
    assert not hub.requests
    loaded = Rabtriever.from_pretrained("org/retriever", token=hub.token, **OPTIONS)
    assert loaded.fingerprint == published.fingerprint
    np.testing.assert_allclose(loaded.encode_query(QUERIES), published.encode_query(QUERIES), atol=1e-5)
    assert {key for _, path, key in hub.requests if "org/retriever" in path} == {f"Bearer {hub.token}"}
    hub.requests.clear()
    again = Rabtriever.from_pretrained("org/retriever", local_files_only=True, **OPTIONS)
    assert again.fingerprint == published.fingerprint
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert str(resolve_model("org/retriever")) == again.name_or_path
    assert not [path for _, path, _ in hub.requests if "org/retriever" in path]


def test_a_revision_is_the_one_that_is_loaded(hub, published, tmp_path):
    published.predictor.output.bias.data += 1
    other = Rabtriever(published.encoder, published.predictor, reranker=published.reranker)
    other.save_pretrained(tmp_path / "other")
    hub.publish("org/retriever", tmp_path / "other", "v2")
    loaded = [Rabtriever.from_pretrained("org/retriever", revision=name, **OPTIONS) for name in ("main", "v2")]
    assert [one.fingerprint for one in loaded] == [published.fingerprint, other.fingerprint]
    with pytest.raises(InputError, match="org/retriever: the hub gave nothing.*check the id, revision and token"):
        Rabtriever.from_pretrained("org/retriever", revision="v3")


def test_an_llm_of_a_revision_is_loaded_again_from_it(hub, llm_folders, tmp_path):
    hub.publish("org/llm", llm_folders["llama"])
    hub.publish("org/llm", llm_folders["qwen3"], "old")
    main, old = (load_reranker("org/llm", revision=name, **OPTIONS) for name in (None, "old"))
    assert main.fingerprint != old.fingerprint
    make_retriever(old).save_pretrained(tmp_path / "model")
    assert load_reranker(tmp_path / "model", **OPTIONS).fingerprint == make_retriever(old).reranker.fingerprint


def test_what_is_not_on_the_hub_is_one_line_that_names_it(hub, published):
    for name in ("org/absent", "org/tiny-llm"):
        with pytest.raises(InputError, match=f"^{name}: ") as caught:
            Rabtriever.from_pretrained(name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["./absent", "~/absent", "/absent/model", "models/absent", "a/b/c", "absent"])
def test_what_is_written_like_a_path_is_never_looked_up_on_the_hub(hub, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert not is_hub_id(name) and resolve_model(name) is None
    with pytest.raises(NotFoundError, match=f"^{name}: no model there"):
        Rabtriever.from_pretrained(name)
    assert not hub.requests


def test_names_that_ship_and_folders_are_found_without_the_hub(hub, retriever, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    retriever.save_pretrained("org/model")
    assert resolve_model("org/model") == resolve_model("~/org/model") == tmp_path / "org/model"
    assert resolve_model("tools") == shipped_model("tools")
    with pytest.raises(NotFoundError, match="ships is not installed"):
        shipped_model("spoons")
    (tmp_path / "tools").mkdir()  # an own folder of that name goes first, and this one has no model
    assert resolve_model("tools") is None
    assert not hub.requests


def test_a_broken_download_is_reported(hub, published):
    Rabtriever.from_pretrained("org/retriever", **OPTIONS)
    folder = resolve_model("org/retriever", local_files_only=True)
    (folder / "predictor.safetensors").unlink()
    with pytest.raises(InputError, match="org/retriever.*"):
        Rabtriever.from_pretrained("org/retriever", local_files_only=True)


def test_pushed_and_loaded_is_the_same(hub, published):
    name = published.name_or_path
    url = published.push_to_hub("me/new", private=True, token=hub.token, commit_message="first")
    assert "/me/new/commit/" in url and published.name_or_path == name
    assert hub.created["me/new"]["visibility"] == "private"
    files = hub.repositories["me/new"]["main"]
    assert 'Rabtriever.from_pretrained("me/new")' in files["README.md"].decode()
    assert json.loads(files["rabtriever.json"])["llm"] == "org/tiny-llm"
    assert Rabtriever.from_pretrained("me/new", **OPTIONS).fingerprint == published.fingerprint
    assert published.push_to_hub("new", token=hub.token)  # the owner is whose token it is; the repository exists
    with pytest.raises(InputError, match="me/new: nothing was uploaded.*check the id and the token"):
        published.push_to_hub("me/new", token="hf_wrong")


def test_a_model_on_a_local_llm_is_not_pushed(hub, retriever):
    with pytest.raises(InputError, match="me/new: .* is a folder of this machine"):
        retriever.push_to_hub("me/new", token=hub.token)
    assert not hub.requests
