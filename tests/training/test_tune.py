"""Learning from what people chose."""

import json
from random import Random

import numpy as np
import pytest
import torch
from encoders.models import HashEncoder
from scoring.predictors import random_predictor

from rabtriever.cli import main
from rabtriever.data import Document
from rabtriever.data.feedback import FeedbackEvent
from rabtriever.errors import CorruptIndexError, InputError, NotFoundError
from rabtriever.index import Index
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.fusion import Fusion, text_keys
from rabtriever.training.choices import NEGATIVE, read_choices
from rabtriever.training.tune import tune

WIDTH, N_DOCUMENTS = 24, 8


class WordEncoder(HashEncoder):
    """The mean of words' embeddings, so that texts that share words are near to each other."""

    def encode_queries(self, texts, *rest):
        states = [super(WordEncoder, self).encode_queries(text.split()).sum(0) for text in texts]
        states = np.array(states, np.float32).reshape(len(texts), self.hidden_size)
        return states / np.linalg.norm(states, axis=1, keepdims=True)

    encode_documents = encode_queries


DOCUMENTS = [Document(f"d{i}", f"document about matter{i}") for i in range(N_DOCUMENTS)]


def choices(n, wrong=0.0, seed=0, start=0):
    """Requests that share words with each other, not with the document that they ask for."""
    random = Random(seed)
    events = []
    for i in range(start, start + n):
        right = random.randrange(N_DOCUMENTS)
        chosen = random.randrange(N_DOCUMENTS) if random.random() < wrong else right
        text = f"cue{right} cue{right} filler{random.randrange(30)}"
        events.append(FeedbackEvent(text, f"d{chosen}", time=float(i)))
    return events


@pytest.fixture
def retriever():
    return Rabtriever(WordEncoder(WIDTH))


@pytest.fixture
def index(tmp_path, retriever):
    return Index.build(tmp_path / "index", retriever, DOCUMENTS)


def recall(index, events):
    return np.mean(
        [hits[0].id == e.id for e, hits in zip(events, index.search([e.query for e in events], 1), strict=True)]
    )


def test_an_index_learns_and_goes_back(index, retriever, tmp_path):
    later = choices(100, seed=1)
    before = recall(index, later)
    report = tune(index, choices(200, wrong=0.1))
    assert report["version"] == 1 and report["labels"] == 200 and report["judged"] == 100 and report["p"] < 0.01
    assert before < 0.4 < 0.9 < recall(index, later) and report["after"] > report["before"]
    # Another process that opens it has learnt the same; the retriever that was given is as it was.
    again = Index.open(tmp_path / "index", retriever)
    assert again.search(later[0].query, 3) == index.search(later[0].query, 3) and retriever.examples is None
    assert index.learned.numbers() == [1] and index.learned.current == 1
    # It is calibrated for what it does now.
    probabilities = [hits[0].probability for hits in index.search([e.query for e in later], 1)]
    assert abs(np.mean(probabilities) - recall(index, later)) < 0.2
    assert index.retriever.refusal.requests == 100
    assert index.learned.rollback() == 0
    index.use_learned()
    assert recall(index, later) == before and index.retriever is retriever
    with pytest.raises(InputError, match="nothing to go back to"):
        index.learned.rollback()


def test_what_was_learnt_before_stays_and_is_not_counted_twice(index):
    first = choices(200)
    assert tune(index, first)["version"] == 1
    n = len(index.retriever.examples)
    with pytest.raises(InputError, match="nothing new"):
        tune(index, first)
    report = tune(index, [*first, *choices(100, seed=2, start=200)])
    assert report["labels"] < 110 and report["skipped"] >= 190
    if report["version"]:
        assert len(index.retriever.examples) == n + report["labels"]


def test_what_is_not_confirmed_is_not_taken(index):
    """Choices at random teach nothing."""
    for seed in range(5):
        report = tune(index, choices(60, wrong=1.0, seed=seed))
        assert report["version"] is None and index.learned.current == 0 and index.retriever.examples is None


def test_documents_added_later_are_found_as_before(index, retriever):
    tune(index, choices(200))
    index.add([Document("new", "fresh thing entirely")])
    assert index.search("fresh thing", 1)[0].id == "new"


def test_states_stand_for_texts(index, retriever, tmp_path):
    events = choices(200)
    states = retriever.encoder.encode_queries([event.query for event in events]).astype(np.float16)
    hidden = [FeedbackEvent(None, e.id, time=e.time, state=state) for e, state in zip(events, states, strict=True)]
    other = Index.build(tmp_path / "other", retriever, DOCUMENTS)
    by_text, by_state = tune(index, events), tune(other, hidden)
    assert by_text["version"] == by_state["version"] == 1 and by_text["after"] == by_state["after"]
    np.testing.assert_allclose(index.retriever.examples.queries, other.retriever.examples.queries, atol=1e-3)


def test_events_in_the_order_of_time_and_what_they_say(index, retriever):
    events = [
        FeedbackEvent("late", "d1", ("d0", "d1", "d2"), time=9.0),
        FeedbackEvent("early", "d0", time=1.0),
        FeedbackEvent("failed", "d0", succeeded=False, time=2.0),
        FeedbackEvent("unknown", "gone", time=3.0),
        FeedbackEvent("none chosen", None, ("d3",), time=4.0),
    ]
    read = read_choices(index, retriever, events)
    assert [read.ids[row] for row in read.rows] == ["d0", "d1"] and read.skipped == 3
    assert [[read.ids[d] for d in passed] for passed in read.passed] == [[], ["d0"]]
    examples, earlier = read.examples(None, negatives=True)
    assert examples.counts.tolist() == [1, 1, NEGATIVE] and earlier.tolist() == [0, 1]
    # What a similar request chose is no negative.
    similar = [FeedbackEvent("late now", "d0", time=10.0), *events]
    read = read_choices(index, WithSame(retriever), similar)
    examples, _ = read.examples(None, negatives=True)
    assert examples.counts.tolist() == [1, 1, 1]
    with pytest.raises(InputError, match="no label names a document of the index"):
        read_choices(index, retriever, events[2:])


class WithSame:
    """A retriever whose encoder finds "late" and "late now" the same."""

    def __init__(self, retriever):
        self.examples, self.encoder = None, Same(retriever.encoder)


class Same(HashEncoder):
    def __init__(self, encoder):
        super().__init__(encoder.hidden_size)
        self.fingerprint = "same"

    def encode_queries(self, texts, *rest):
        return super().encode_queries([text.replace(" now", "") for text in texts])

    encode_documents = encode_queries


def test_a_correction_that_only_harms_is_left(tmp_path):
    torch.manual_seed(0)
    encoder = WordEncoder(WIDTH)
    keys = text_keys([document.content for document in DOCUMENTS])
    predictor = random_predictor(WIDTH, 16, "mlp", 1)
    with torch.no_grad():
        predictor.output.weight.mul_(50.0)
    spoilt = Rabtriever(encoder, predictor, fusion=Fusion(20.0, 1.0, 1.0), trained_on=keys)
    index = Index.build(tmp_path / "index", spoilt, DOCUMENTS)
    events = [FeedbackEvent(f"matter{i % 8} filler{i}", f"d{i % 8}") for i in range(160)]
    report = tune(index, events)
    assert report["version"] == 1 and not report["setting"]["correction"] and report["after"] > 0.9 > report["before"]
    found = index.search("matter3 filler9", 1)[0]
    assert found.id == "d3" and Index.open(tmp_path / "index", spoilt).search("matter3 filler9", 1)[0] == found


def test_a_retriever_without_a_similarity_cannot_learn(tmp_path):
    bare = Rabtriever(WordEncoder(WIDTH), random_predictor(WIDTH, 8, "mlp"), fusion=Fusion(0.0))
    index = Index.build(tmp_path / "index", bare, DOCUMENTS)
    with pytest.raises(InputError, match="no encoder's similarity"):
        tune(index, choices(20))


def test_broken_versions_are_named(index, tmp_path):
    tune(index, choices(200))
    (tmp_path / "index" / "learned" / "1" / "learned.json").write_text("{")
    with pytest.raises(CorruptIndexError, match="a broken version"):
        Index.open(tmp_path / "index", index._saved).search("cue1", 1)
    with pytest.raises(NotFoundError, match="no learned version 7"):
        index.learned.load(7)
    assert index.learned.rollback() == 0


def test_the_command(index, retriever, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rabtriever.cli.tune.open_index", lambda args: Index.open(args.uri, retriever))
    labels = tmp_path / "labels.jsonl"
    lines = [json.dumps({"query": e.query, "id": e.id, "time": e.time}) for e in choices(200)]
    labels.write_text("\n".join(lines) + "\n")
    uri = str(tmp_path / "index")
    assert main(["tune", uri, "--labels", str(labels)]) == 0
    assert "learned version 1" in capsys.readouterr().out
    assert main(["tune", uri, "--rollback", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 0
    assert main(["tune", uri, "--rollback"]) == 2 and "nothing to go back to" in capsys.readouterr().err
    assert main(["tune", uri, "--rollback", "--labels", str(labels)]) == 2
    assert main(["tune", uri]) == 2 and "stored no feedback" in capsys.readouterr().err
