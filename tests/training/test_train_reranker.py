import json
import math
from dataclasses import replace
from functools import cached_property

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import ARCHITECTURES, TEMPLATE
from transformers import TrainingArguments

from rabtriever.data import Document, RetrievalData, train_dev_split
from rabtriever.errors import ConflictError, InputError
from rabtriever.llm.backbone import Backbone
from rabtriever.llm.prompt import Prompt, PromptTemplate
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.training import hard_negatives, reranker_trainer, start
from rabtriever.training import train_reranker as module
from rabtriever.training.batches import BatchDataset
from rabtriever.training.config import OBJECTIVES, RerankerTrainingConfig
from rabtriever.training.losses import dpo, pointwise
from rabtriever.training.reranker_trainer import RerankerModule, RerankerTrainer, collate
from rabtriever.training.start import Start
from rabtriever.training.train_reranker import train_reranker


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(hard_negatives, "STEPS", 20)


def config_of(**config):
    quick = {"steps": 6, "documents_per_step": 4, "negatives": 3, "checkpoint_every": 2, "lora_depth": 1.0}
    return RerankerTrainingConfig(**{**quick, **config})


def train(data, out, model, callbacks=(), **config):
    return train_reranker(
        data,
        out,
        str(model),
        prompt=TEMPLATE,
        config=config_of(**config),
        callbacks=callbacks,
        device="cpu",
        dtype="float32",
    )


def adapter_of(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def log_of(folder):
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


def config_in(folder):
    return json.loads((folder / "rabtriever.json").read_text())


class Recorder:
    def __init__(self):
        self.lines = []

    def on_log(self, step, metrics):
        self.lines.append({"step": step, **metrics})


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_training_learns(tiny_data, llm_folder, tmp_path, objective):
    recorder = Recorder()
    options = {"objective": objective, "steps": 80, "learning_rate": 3e-3, "checkpoint_every": 100}
    trained = train(tiny_data, tmp_path / "out", llm_folder, callbacks=[recorder], **options)
    queries = tiny_data.labelled_queries("train")
    documents = [document.content for document in tiny_data.documents.values()]
    log_odds = trained.log_odds(list(queries.values()), documents)
    best = [list(tiny_data.documents)[i] for i in log_odds.argmax(1)]
    correct = [document in tiny_data.qrels["train"][query] for query, document in zip(queries, best, strict=True)]
    assert sum(correct) / len(correct) >= 0.75  # 1/6 at random
    assert trained.llm.template == TEMPLATE
    loaded = GenerativeReranker.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert loaded.fingerprint == trained.fingerprint
    assert (loaded.log_odds(list(queries.values()), documents) == log_odds).all()
    log = log_of(tmp_path / "out")
    assert log[0].keys() == {"step", "hard_negatives/R@1"} and {"loss", "accuracy"} <= log[1].keys()
    assert log[-1]["step"] == 80 and log == recorder.lines


def test_a_student_in_the_loop_moves_the_adapter_and_is_logged(tiny_data, llm_folder, tmp_path):
    train(tiny_data, tmp_path / "alone", llm_folder)
    train(tiny_data, tmp_path / "jointly", llm_folder, student_weight=1.0)
    alone, jointly = adapter_of(tmp_path / "alone"), adapter_of(tmp_path / "jointly")
    assert any((alone[name] - jointly[name]).abs().max() > 1e-4 for name in alone)
    assert 0 <= log_of(tmp_path / "jointly")[1]["student_accuracy"] <= 1
    written = sorted(path.name for path in (tmp_path / "jointly").iterdir())
    assert written == ["README.md", "adapter", "rabtriever.json", "train_log.jsonl"]


@pytest.mark.parametrize("student_weight", [0.0, 1.0])
def test_an_interrupted_training_resumes(tiny_data, llm_folder, tmp_path, monkeypatch, student_weight):
    options = {"student_weight": student_weight}
    train(tiny_data, tmp_path / "whole", llm_folder, **options)
    original, steps = RerankerTrainer.compute_loss, []

    def interrupted(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(RerankerTrainer, "compute_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_data, tmp_path / "cut", llm_folder, **options)
    assert not (tmp_path / "cut").exists()
    with pytest.raises(ConflictError, match="with other options"):
        train(tiny_data, tmp_path / "cut", llm_folder, seed=1, **options)
    other = replace(tiny_data, documents={**tiny_data.documents, "new": Document("new", "another")})
    with pytest.raises(ConflictError, match="other options, data or model"):
        train(other, tmp_path / "cut", llm_folder, **options)
    (tmp_path / "cut.partial" / "checkpoint-6").mkdir()  # as if killed while it was being written
    train(tiny_data, tmp_path / "cut", llm_folder, **options)
    assert len(steps) == 6 + 2  # from the checkpoint after step 4
    assert not (tmp_path / "cut.partial").exists()
    resumed = adapter_of(tmp_path / "cut")
    for name, value in adapter_of(tmp_path / "whole").items():
        torch.testing.assert_close(resumed[name], value, atol=1e-6, rtol=1e-5)


def test_a_reranker_is_trained_further(tiny_data, llm_folder, tmp_path):
    train(tiny_data, tmp_path / "first", llm_folder, lora_rank=4)
    first, config = adapter_of(tmp_path / "first"), config_in(tmp_path / "first")
    assert all(".layers." in name for name in first)  # lm_head and the embeddings stay as they are
    further = {"config": config_of(steps=1, learning_rate=1e-9), "device": "cpu", "dtype": "float32"}
    train_reranker(tiny_data, tmp_path / "second", tmp_path / "first", **further)
    for name, value in adapter_of(tmp_path / "second").items():
        torch.testing.assert_close(value, first[name], atol=1e-6, rtol=0)
    second = config_in(tmp_path / "second")
    assert second["llm"] == config["llm"] and second["prompt"] == config["prompt"]
    assert second["training_before"] == [config["training"]] and second["training"]["steps"] == 1
    retriever = {**config, "training": {"policy": "on"}, "teacher": {"training": config["training"]}}
    (tmp_path / "first" / "rabtriever.json").write_text(json.dumps(retriever))
    train_reranker(tiny_data, tmp_path / "third", tmp_path / "first", **further)
    # The reranker's training, not the retriever's.
    assert config_in(tmp_path / "third")["training_before"] == [config["training"]]


def test_a_reranker_is_trained_further_on_the_revision_of_its_llm(tiny_data, llm_folder, tmp_path, monkeypatch):
    train(tiny_data, tmp_path / "first", llm_folder, steps=1)
    config = {**config_in(tmp_path / "first"), "llm_revision": "v2"}
    (tmp_path / "first" / "rabtriever.json").write_text(json.dumps(config))
    load_base, revisions = start.load_base, []
    monkeypatch.setattr(
        start, "load_base", lambda source, revision=None: revisions.append(revision) or load_base(source)
    )
    train(tiny_data, tmp_path / "second", tmp_path / "first", steps=1)
    assert revisions == ["v2"] and config_in(tmp_path / "second")["llm_revision"] == "v2"


def test_the_llm_sees_no_held_out_query_and_each_document_once_a_step(tiny_data, llm_folder, tmp_path, monkeypatch):
    tiny_data.queries["again"] = tiny_data.queries["q8"]  # a query of the test split under another id
    tiny_data.qrels["train"]["again"] = {"recipe": 1}
    held_out = train_dev_split(tiny_data)
    dev = {tiny_data.queries[query] for split in ("dev", "test") for query in held_out.qrels[split]}
    read, calls = set(), []
    query_ids, document_ids = Prompt.query_ids, Prompt.document_ids
    monkeypatch.setattr(
        Prompt, "query_ids", lambda self, texts, **options: read.update(texts) or query_ids(self, texts, **options)
    )
    monkeypatch.setattr(
        Prompt, "document_ids", lambda self, texts: calls.append(len(texts)) or document_ids(self, texts)
    )
    train(tiny_data, tmp_path / "out", llm_folder, objective="dpo", steps=8, documents_per_step=6, queries_per_step=9)
    assert len(dev) == 5 and not read & dev
    assert read == set(held_out.labelled_queries("train").values())
    assert calls == [6] * (1 + 8)  # hard negatives, then the steps


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_computes_the_log_odds_of_the_reranker(tiny_data, llm_folders, tmp_path, architecture):
    trained = train(tiny_data, tmp_path / "out", llm_folders[architecture], steps=2, learning_rate=3e-2)
    model, tokenizer = Start.of(tmp_path / "out").load(config_of(), torch.float32, "cpu")
    module = RerankerModule(model, Prompt(TEMPLATE, tokenizer), "sft")
    batch = BatchDataset(tiny_data, config_of(documents_per_step=6), {})[0]
    documents = [[i for i, scored in enumerate(row) if scored] for row in batch.scored.tolist()]
    pairs = [(query, document) for query, of_query in enumerate(documents) for document in of_query]
    expected = trained.score(batch.queries, batch.documents, np.array(pairs)).log_odds
    loss = pointwise(torch.from_numpy(expected), batch.positive[batch.scored])
    torch.testing.assert_close(module(batch)["loss"].detach(), loss, atol=1e-4, rtol=1e-4)


def test_a_folder_that_no_training_made_is_left_alone(tiny_data, llm_folder, tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "precious").touch()
    with pytest.raises(ConflictError, match="out.partial"):
        train(tiny_data, tmp_path / "out", llm_folder)
    assert [path.name for path in (tmp_path / "out.partial").iterdir()] == ["precious"]


def test_nothing_is_mined_that_no_option_uses(tiny_data, llm_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Backbone, "states", lambda *args: pytest.fail("texts were encoded"))
    train(tiny_data, tmp_path / "out", llm_folder, hard_negative_share=0.0, steps=1)
    assert log_of(tmp_path / "out")[0]["step"] == 1


@pytest.fixture
def bfloat16_module(llm_folder):
    model, tokenizer = Start.of(llm_folder, TEMPLATE).load(config_of(), torch.bfloat16, "cpu")
    return RerankerModule(model, Prompt(TEMPLATE, tokenizer), "dpo")


def test_dpo_begins_at_its_reference_in_bfloat16(bfloat16_module, tiny_data, monkeypatch):
    def checked(log_odds, reference, positive):
        assert torch.equal(log_odds, reference)  # the margin of every pair is 0
        return dpo(log_odds, reference, positive)

    monkeypatch.setattr(reranker_trainer, "dpo", checked)
    words = "please find the music and the lamp for me in my city"
    long = {f"long{n}": Document(f"long{n}", words[: 7 * n]) for n in range(1, 8)}
    data = replace(tiny_data, documents={**tiny_data.documents, **long})
    batches = BatchDataset(data, config_of(documents_per_step=13, negatives=12), {})
    for step in range(3):
        loss = bfloat16_module(batches[step])["loss"]
        assert loss.item() == pytest.approx(math.log(2), abs=1e-7)
        loss.backward()  # it is differentiable all the same
    trained = [weight.grad for weight in bfloat16_module.parameters() if weight.requires_grad]
    assert any(grad is not None and grad.abs().max() > 0 for grad in trained)


def test_only_the_adapter_is_trained_and_only_weights_are_cast(bfloat16_module):
    weights = dict(bfloat16_module.named_parameters())
    assert {name for name, weight in weights.items() if weight.requires_grad} == {n for n in weights if "lora_" in n}
    assert {weight.dtype for name, weight in weights.items() if "lora_" not in name} == {torch.bfloat16}
    # Rotary frequencies among them: in bfloat16 they are a radian off at position 700.
    assert {value.dtype for value in bfloat16_module.buffers()} == {torch.float32}


def test_a_querys_own_document_does_not_count_in_a_students_loss(tiny_data, llm_folder, reranker):
    own = Document("q0", tiny_data.queries["q0"])
    data = replace(tiny_data, documents={**tiny_data.documents, "q0": own})
    batch = BatchDataset(data, config_of(documents_per_step=7), {})[0]
    student = torch.nn.Module()
    scores = torch.zeros(len(batch.queries), 7)
    student.log_odds = lambda z_q, z_d: scores + torch.randn(scores.shape, generator=torch.Generator().manual_seed(0))
    model, tokenizer = Start.of(llm_folder, TEMPLATE).load(config_of(), torch.float32, "cpu")
    trained = RerankerModule(model, Prompt(TEMPLATE, tokenizer), "sft", 1.0)
    trained.student = student
    assert batch.own.any()
    before = trained(batch)["loss"]
    scores[batch.own] = 50.0
    torch.testing.assert_close(trained(batch)["loss"], before)


def test_with_several_gpus_a_step_is_still_one_batch(tiny_data, tmp_path, monkeypatch):
    def two_gpus(self):
        self._n_gpu = 2
        return torch.device("cpu")

    setup = cached_property(two_gpus)
    setup.__set_name__(TrainingArguments, "_setup_devices")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", setup)
    arguments = module._arguments(tmp_path, config_of(), torch.float32, "cpu")
    assert arguments.train_batch_size == 1
    batches = BatchDataset(tiny_data, config_of(), {})
    assert collate([batches[0]])["batch"].queries == batches[0].queries
    with pytest.raises(ValueError, match="expected 1"):
        collate([batches[0], batches[1]])


def test_bad_input_is_named_before_anything_is_loaded(tiny_data, llm_folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    with pytest.raises(ConflictError, match="exists already"):
        train(tiny_data, tmp_path / "out", "/no/such/model")
    with pytest.raises(InputError, match="/no/such/model"):
        train(tiny_data, tmp_path / "new", "/no/such/model")
    for options in ({"device": "cuda:1"}, {"dtype": "float16"}):
        (name,) = options
        with pytest.raises(InputError, match=name) as error:
            train_reranker(tiny_data, tmp_path / "new", "/no/such/model", **options)
        assert error.value.param == name
    one = {"weather": tiny_data.documents["weather"]}
    alone = RetrievalData("one", one, tiny_data.queries, {"train": {"q0": {"weather": 1}}})
    with pytest.raises(InputError, match="a single document"):
        train(alone, tmp_path / "new", llm_folder)
    with pytest.raises(InputError, match="lower document_tokens"):
        train_reranker(tiny_data, tmp_path / "new", llm_folder, prompt=PromptTemplate(document_tokens=10**6))
    with pytest.raises(InputError, match="training reads documents first"):
        train_reranker(tiny_data, tmp_path / "new", llm_folder, prompt=PromptTemplate(query_first=True))
    tiny_data.qrels.pop("train")
    with pytest.raises(InputError, match="no split 'train'"):
        train(tiny_data, tmp_path / "new", llm_folder)
    assert not list(tmp_path.glob("new*"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("objective", "magic"),
        ("steps", 0),
        ("queries_per_step", 0),
        ("documents_per_step", 1),
        ("negatives", 0),
        ("hard_negative_share", 1.5),
        ("student_weight", -1.0),
        ("learning_rate", float("nan")),
        ("lora_rank", 0),
        ("lora_depth", 0.0),
        ("checkpoint_every", 0),
    ],
)
def test_a_value_out_of_range_is_named(field, value):
    with pytest.raises(InputError, match=f"^{field} ") as error:
        RerankerTrainingConfig(**{field: value})
    assert error.value.param == field
