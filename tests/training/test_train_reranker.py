import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny import TEMPLATE

from rabtriever.data import Document, RetrievalData
from rabtriever.errors import InputError
from rabtriever.llm.prompt import PromptTemplate
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.training import mining
from rabtriever.training import reranker as module
from rabtriever.training.config import RerankerTrainingConfig
from rabtriever.training.train_reranker import train_reranker


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(mining, "STEPS", 20)
    monkeypatch.setattr(module, "native_dtype", lambda device: torch.float32)


def train(data, out, llm_folder, **settings):
    values = {
        "steps": 6,
        "pool": 4,
        "negatives": 3,
        "checkpoint_every": 2,
        "lora_depth": 1.0,
        **settings,
    }
    train_reranker(data, out, str(llm_folder), TEMPLATE, RerankerTrainingConfig(**values))
    return load_file(out / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("objective", ["listwise", "sft", "dpo"])
def test_training_learns(tiny_data, llm_folder, tmp_path, objective):
    settings = {"objective": objective, "steps": 80, "learning_rate": 3e-3, "checkpoint_every": 100}
    train(tiny_data, tmp_path / "out", llm_folder, **settings)
    judged = tiny_data.labelled_queries("train")
    documents = [document.content for document in tiny_data.documents.values()]

    def accuracy(reranker):
        best = reranker.log_odds(list(judged.values()), documents).argmax(1)
        return sum(
            list(tiny_data.documents)[i] in tiny_data.qrels["train"][q] for i, q in zip(best, judged, strict=True)
        ) / len(judged)

    trained = GenerativeReranker.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert trained.template == TEMPLATE
    assert accuracy(trained) >= 0.75  # chance is 1/6
    log = [json.loads(line) for line in (tmp_path / "out" / "train_log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 80 and {"loss", "accuracy"} <= set(log[0])


def test_a_student_in_the_loop_moves_the_adapter_and_is_logged(tiny_data, llm_folder, tmp_path):
    alone = train(tiny_data, tmp_path / "alone", llm_folder)
    along = train(tiny_data, tmp_path / "along", llm_folder, student_weight=1.0)
    assert any((alone[name] - along[name]).abs().max() > 1e-4 for name in alone)
    log = [json.loads(line) for line in (tmp_path / "along" / "train_log.jsonl").read_text().splitlines()]
    assert 0 <= log[0]["student_accuracy"] <= 1
    assert sorted(path.name for path in (tmp_path / "along").iterdir()) == [
        "adapter",
        "rabtriever.json",
        "train_log.jsonl",
    ]
    with pytest.raises(InputError, match="student_weight not below 0"):
        RerankerTrainingConfig(student_weight=-1.0)


@pytest.mark.parametrize("student_weight", [0.0, 1.0])
def test_an_interrupted_training_goes_on_as_if_nothing_had_been(
    tiny_data, llm_folder, tmp_path, monkeypatch, student_weight
):
    settings = {"student_weight": student_weight}
    whole = train(tiny_data, tmp_path / "whole", llm_folder, **settings)
    original, steps = module.RerankerTrainer.compute_loss, []

    def interrupted(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(module.RerankerTrainer, "compute_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_data, tmp_path / "cut", llm_folder, **settings)
    assert not (tmp_path / "cut").exists()
    with pytest.raises(InputError, match="with other settings"):
        train(tiny_data, tmp_path / "cut", llm_folder, seed=1, **settings)
    other = replace(tiny_data, documents={**tiny_data.documents, "new": Document("new", "another")})
    with pytest.raises(InputError, match="other settings, data or model"):
        train(other, tmp_path / "cut", llm_folder, **settings)
    (tmp_path / "cut.partial" / "checkpoint-6").mkdir()  # as if killed while it was being written
    resumed = train(tiny_data, tmp_path / "cut", llm_folder, **settings)
    assert len(steps) == 6 + 2  # from the checkpoint after step 4
    assert not (tmp_path / "cut.partial").exists()
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, atol=1e-6, rtol=1e-5)


def test_training_goes_on_from_a_reranker(tiny_data, llm_folder, tmp_path):
    first = train(tiny_data, tmp_path / "first", llm_folder, lora_rank=4)
    assert all(".layers." in name for name in first)  # lm_head and the embeddings stay as they are
    config = json.loads((tmp_path / "first" / "rabtriever.json").read_text())
    settings = RerankerTrainingConfig(steps=1, pool=4, learning_rate=1e-9)
    train_reranker(tiny_data, tmp_path / "second", str(tmp_path / "first"), None, settings)
    second = load_file(tmp_path / "second" / "adapter" / "adapter_model.safetensors")
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-6, rtol=0)
    further = json.loads((tmp_path / "second" / "rabtriever.json").read_text())
    assert further["llm"] == config["llm"] and further["prompt"] == config["prompt"]
    assert further["training_before"] == [config["training"]] and further["training"]["steps"] == 1
    retriever = {**config, "training": {"policy": "on"}, "teacher": {"training": config["training"]}}
    (tmp_path / "first" / "rabtriever.json").write_text(json.dumps(retriever))
    train_reranker(tiny_data, tmp_path / "third", str(tmp_path / "first"), None, settings)
    further = json.loads((tmp_path / "third" / "rabtriever.json").read_text())
    assert further["training_before"] == [config["training"]]  # the reranker's, not the retriever's


def test_bad_input_is_named(tiny_data, llm_folder, tmp_path):
    with pytest.raises(InputError, match="objective 'magic'"):
        RerankerTrainingConfig(objective="magic")
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists already"):
        train(tiny_data, tmp_path / "out", llm_folder)
    one = {"weather": tiny_data.documents["weather"]}
    alone = RetrievalData("one", one, tiny_data.queries, {"train": {"q0": {"weather": 1}}})
    with pytest.raises(InputError, match="at least two documents"):
        train(alone, tmp_path / "new", llm_folder)
    with pytest.raises(InputError, match="lower document_tokens"):
        train_reranker(tiny_data, tmp_path / "new", str(llm_folder), PromptTemplate(document_tokens=10**6))
    tiny_data.qrels.pop("train")
    with pytest.raises(InputError, match="no split 'train'"):
        train(tiny_data, tmp_path / "new", llm_folder)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
