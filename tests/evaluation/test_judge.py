"""Teachers of known log-odds beside an encoder of known similarities; then an LLM that does not choose."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rabtriever import load_reranker
from rabtriever.data import Document, RetrievalData
from rabtriever.errors import InputError
from rabtriever.evaluation.judge import COSINE_WEIGHT, judge
from rabtriever.rerankers.base import PairScorer, Scores
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.scoring.calibration import Calibration

# Similarities of four queries to four documents; each query's relevant document has the query's number.
SIMILARITIES = np.array([[0.9, 0.1, 0, 0], [0.5, 0.4, 0, 0], [0.5, 0.4, 0.45, 0], [0.5, 0.4, 0.45, 0.1]])


class KnownEncoder:
    hidden_size, fingerprint = 4, "known"

    def __init__(self, similarities=SIMILARITIES):
        self.similarities = similarities.astype(np.float32)

    def encode_queries(self, texts, batch_size=None, show_progress_bar=False):
        return self.similarities[[int(text[1:]) for text in texts]]

    def encode_documents(self, texts, batch_size=None, show_progress_bar=False):
        return np.eye(4, dtype=np.float32)


class KnownReranker(PairScorer):
    fingerprint, calibration = "known", Calibration()

    def __init__(self, log_odds):
        self.known, self.read = np.asarray(log_odds, float), []

    def score(self, queries, documents, pairs, *, with_states=False, show_progress_bar=False):
        texts = [(int(queries[q][1:]), int(documents[d][1:])) for q, d in pairs.tolist()]
        self.read += texts
        return Scores(np.array([self.known[pair] for pair in texts], np.float32))


@pytest.fixture
def data():
    documents = {f"d{i}": Document(f"d{i}", f"d{i}") for i in range(4)}
    queries = {f"q{i}": f"q{i}" for i in range(4)}
    return RetrievalData("known", documents, queries, {"test": {f"q{i}": {f"d{i}": 1} for i in range(4)}})


RIGHT = 20 * np.eye(4) - 10  # log-odds of a teacher that is always right


def test_a_teacher_reads_the_encoders_best_and_is_measured_on_them(data):
    teacher = KnownReranker(RIGHT)
    report = judge(data, {"right": teacher}, KnownEncoder(), depth=2)
    assert report["encoder"]["R@1"] == 0.25 and report["encoder"]["R@depth"] == 0.75
    assert set(teacher.read) == {(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 2), (3, 0), (3, 2)}
    found = report["teachers"]["right"]
    assert found["R@1"] == 0.75  # the fourth query's document is not among its best two
    assert found["calibration_error"] == pytest.approx(0, abs=1e-3)
    assert found["choice_mass"] is None and found["cost_per_pair"] is None and found["ms_per_pair"] > 0
    assert report["split"] == "test" and report["n_queries"] == 4 and report["depth"] == 2 and "all" not in report


def test_the_sum_weighs_the_similarity_and_adds_the_teachers(data):
    close = np.zeros((4, 4))
    # Just enough for the second query, not for the third: the encoder prefers document 0 by .1 and .05.
    close[1, 1], close[2, 2] = 0.1 * COSINE_WEIGHT + 0.1, 0.05 * COSINE_WEIGHT - 0.1
    other = np.zeros((4, 4))
    other[2, 2] = 0.2  # together they reach it
    report = judge(data, {"a": KnownReranker(close), "b": KnownReranker(other)}, KnownEncoder(), depth=4)
    assert report["teachers"]["a"]["R@1_fused"] == 0.5 and report["teachers"]["b"]["R@1_fused"] == 0.25
    assert report["all"]["R@1_fused"] == 0.75
    assert [(pair["a"], pair["b"]) for pair in report["agreement"]] == [("encoder", "a"), ("encoder", "b"), ("a", "b")]


def test_overconfident_probabilities_have_a_calibration_error(data):
    wrong = judge(data, {"wrong": KnownReranker(-RIGHT)}, KnownEncoder(), depth=4)["teachers"]["wrong"]
    assert wrong["R@1"] == 0 and wrong["calibration_error"] == pytest.approx(1, abs=1e-3)


def test_an_encoder_teaches_by_ranking_all_documents(data):
    teacher = KnownEncoder(np.eye(4))
    report = judge(data, {"other": teacher}, KnownEncoder(), depth=1)
    assert report["teachers"]["other"]["R@1"] == 1  # beyond the first encoder's best one
    assert report["teachers"]["other"]["R@1_fused"] == 1 and report["agreement"][0]["share"] == 0.25


def test_without_labels_there_is_agreement_alone(data):
    unlabelled = RetrievalData("known", data.documents, data.queries, {})
    report = judge(unlabelled, {"right": KnownReranker(RIGHT)}, KnownEncoder(), queries_limit=3, depth=2)
    found = report["teachers"]["right"]
    assert report["split"] is None and report["n_queries"] == 3 and report["encoder"]["R@1"] is None
    assert [found[name] for name in ("R@1", "R@1_fused", "calibration_error", "calibration_error_fused")] == [None] * 4
    assert found["ms_per_pair"] > 0 and 0 <= report["agreement"][0]["share"] <= 1


def test_a_querys_own_document_counts_nowhere(data):
    documents = {**data.documents, "q1": Document("q1", "q1")}

    class Wide(KnownEncoder):
        def encode_queries(self, texts, batch_size=None, show_progress_bar=False):
            return np.pad(super().encode_queries(texts), [(0, 0), (0, 1)], constant_values=1)

        def encode_documents(self, texts, batch_size=None, show_progress_bar=False):
            return np.eye(5, dtype=np.float32)

    only = RetrievalData("own", documents, {"q1": "q1"}, {"test": {"q1": {"d1": 1}}})
    teacher = KnownReranker(RIGHT)
    assert judge(only, {"right": teacher}, Wide(), depth=2)["teachers"]["right"]["R@1"] == 1
    assert (1, 1) in teacher.read


def test_the_cost_and_mass_of_a_remote_teacher(data):
    class Remote(KnownReranker):
        cost, mass = 0.0, 0.9

        def score(self, queries, documents, pairs, **options):
            self.cost += 0.5 * len(pairs)
            return super().score(queries, documents, pairs, **options)

    found = judge(data, {"remote": Remote(RIGHT)}, KnownEncoder(), depth=2)["teachers"]["remote"]
    assert found["cost_per_pair"] == 0.5 and found["choice_mass"] == 0.9


def test_bad_input_is_named(data):
    with pytest.raises(InputError, match="at least 1 of both"):
        judge(data, {"right": KnownReranker(RIGHT)}, KnownEncoder(), depth=0)
    with pytest.raises(InputError, match="no teacher"):
        judge(data, {}, KnownEncoder())
    with pytest.raises(InputError, match="no split 'dev'"):
        judge(data, {"right": KnownReranker(RIGHT)}, KnownEncoder(), split="dev")
    with pytest.raises(InputError, match="has no queries"):
        judge(RetrievalData("none", data.documents, {}, {}), {"right": KnownReranker(RIGHT)}, KnownEncoder())


@pytest.fixture(scope="module")
def llm(chat_folder):
    return load_reranker(chat_folder, preset="plain", device="cpu", dtype=torch.float32)


def test_the_mass_is_the_choices_share_of_the_whole_vocabulary(llm):
    queries, documents = ["rain", "music"], ["find the weather", "a recipe"]
    pairs = np.array([(0, 0), (1, 0), (1, 1)])
    mass = llm.choice_mass(queries, documents, pairs)
    for (q, d), found in zip(pairs.tolist(), mass, strict=True):
        ids = llm.llm.prompt.document_ids([documents[d]])[0] + llm.llm.prompt.query_ids([queries[q]])[0]
        with torch.inference_mode():
            shares = llm.llm.loaded.model(torch.tensor([ids])).logits[0, -1].float().softmax(0)
        assert found == pytest.approx(float(shares[list(llm.llm.prompt.choice_ids)].sum()), rel=1e-3)


def masses(monkeypatch, **of_preset):
    """Gives each preset its mass, by its choices and its order."""
    names = {(" yes", False): "plain", ("Yes", False): "chat", ("yes", True): "qwen3", ("Yes", True): "bge"}

    def choice_mass(self, queries, documents, pairs):
        template = self.llm.template
        return np.full(len(pairs), of_preset.get(names[template.yes, template.query_first], 0.01))

    monkeypatch.setattr(GenerativeReranker, "choice_mass", choice_mass)


def test_an_llm_that_does_not_choose_is_an_error_that_names_the_preset_to_try(data, llm, monkeypatch):
    masses(monkeypatch, plain=0.03, chat=0.97, bge=0.4)
    with pytest.raises(InputError, match="small: only 3% .* on ' yes' and ' no'; --preset chat has 97%"):
        judge(data, {"small": llm}, KnownEncoder())
    masses(monkeypatch, plain=0.03, bge=0.4)
    with pytest.raises(InputError, match="no preset has half of it \\(bge-reranker-v2-gemma: 40%\\)"):
        judge(data, {"small": llm}, KnownEncoder())


def test_an_llm_that_chooses_is_measured(data, llm, monkeypatch):
    masses(monkeypatch, plain=0.8)
    found = judge(data, {"small": llm}, KnownEncoder(), depth=2)["teachers"]["small"]
    assert found["choice_mass"] == pytest.approx(0.8) and 0 <= found["R@1"] <= 0.75


def test_a_trained_prompt_is_not_questioned(data, llm, monkeypatch):
    masses(monkeypatch, plain=0.1)
    monkeypatch.setattr(llm.llm.loaded, "adapter", "folder")
    assert judge(data, {"ours": llm}, KnownEncoder())["teachers"]["ours"]["choice_mass"] == pytest.approx(0.1)
