import json
import re
from pathlib import Path

import pytest

import rabtriever
from rabtriever.persistence.model_card import model_card

SHIPPED = Path(__file__).parents[2] / "models" / "tools"
CONFIG = {
    "llm": "smollm2",
    "prompt": {
        "document": "D: {document}\n",
        "query": "Q: {query}?",
        "yes": " y",
        "no": " n",
        "document_tokens": 7,
        "query_tokens": 5,
    },
    "predictor": {},
    "data": "one+two",
}


def snippet(card):
    return re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)


def test_the_snippet_of_a_saved_model_runs(retriever, tmp_path, monkeypatch, capsys):
    retriever.save_pretrained(tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    exec(snippet((tmp_path / "my-model" / "README.md").read_text()), {})
    assert sorted(line.split("% ")[1] for line in capsys.readouterr().out.splitlines()) == ["lamp", "sponge"]
    card = model_card({key: value for key, value in CONFIG.items() if key != "predictor"}, "my-model")
    monkeypatch.setattr(rabtriever, "load_reranker", lambda name: {"my-model": retriever.reranker}[name], raising=False)
    exec(snippet(card), {})
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_card_holds_what_is_recorded():
    card = model_card(
        CONFIG
        | {
            "license": "MIT",
            "language": "en",
            "measures": {"retriever": {"R@1": 0.5, "R@3": 1}, "bm25": {"R@1": 0.25}},
            "training": {"steps": 3},
            "teacher": {"data": "one"},
        },
        "name",
    )
    front = card.split("---")[1]
    for line in ('license: "mit"', 'datasets: ["one", "two"]', 'base_model: ["HuggingFaceTB/SmolLM2-135M-Instruct"]'):
        assert line in front.splitlines()
    assert "| retriever | 0.500 | 1.000 |\n| bm25 | 0.250 |  |" in card
    assert "first 7 tokens" in card and "last\n5" not in card and "last 5" in card
    assert '"steps": 3' in card and "Q: {query}?" in card and "one (licence not recorded)" in card


def test_a_card_says_that_a_local_llm_is_needed():
    card = model_card(CONFIG | {"llm": "../llm"}, "name")
    assert "LLM: the folder `../llm`" in card and "base_model" not in card


def test_a_card_names_encoder_and_reranker():
    encoder = {"kind": "sentence", "name": "sentence-transformers/all-MiniLM-L6-v2"}
    card = model_card(CONFIG | {"encoder": encoder, "fusion": {}}, "name")
    front = card.split("---")[1]
    assert 'base_model: ["sentence-transformers/all-MiniLM-L6-v2", "HuggingFaceTB/SmolLM2-135M-Instruct"]' in front
    assert "- Encoder: sentence-transformers/all-MiniLM-L6-v2" in card and "- LLM: " in card
    alone = model_card({"encoder": {**encoder, "name": "../encoder"}, "fusion": {}}, "name")
    assert "Encoder: the folder `../encoder`" in alone and "base_model" not in alone and "## Prompt" not in alone


def test_a_card_says_what_a_tuned_encoder_was_tuned_from():
    tuned = {"encoder": {"kind": "sentence", "name": "./encoder"}, "fusion": {}}
    tuned["encoder_tuning"] = {"of": "minilm", "alpha": 0.5}
    card = model_card(CONFIG | tuned, "name")
    assert '"sentence-transformers/all-MiniLM-L6-v2"' in card.split("---")[1]
    assert "- Encoder: in this folder\n- Encoder before it was tuned: sentence-transformers/all-MiniLM-L6-v2" in card
    for tuning in ({"of": "minilm", "alpha": 0.0}, {"of": "encoder", "alpha": 1.0}):
        assert "before it was tuned" not in model_card(CONFIG | tuned | {"encoder_tuning": tuning}, "name")


def test_front_matter_is_yaml():
    yaml = pytest.importorskip("yaml")
    front = model_card(CONFIG | {"license": 'odd: "x"'}, "name").split("---\n")[1]
    assert yaml.safe_load(front)["license"] == 'odd: "x"' and yaml.safe_load(front)["library_name"] == "rabtriever"


def test_the_shipped_card_is_that_of_its_configuration():
    config = json.loads((SHIPPED / "rabtriever.json").read_text())
    assert (SHIPPED / "README.md").read_text() == model_card(config, "tools")
    assert "MetaTool](https://github.com/HowieHwong/MetaTool) (MIT)" in (SHIPPED / "README.md").read_text()


@pytest.mark.slow
def test_the_snippet_of_the_shipped_card_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(snippet((SHIPPED / "README.md").read_text()), {})
    assert len(capsys.readouterr().out.splitlines()) == 2
