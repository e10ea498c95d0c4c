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
from rabtriever.errors import BusyError, CorruptIndexError, InputError, NotFoundError
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
        text = f"cue{right} cue{right} filler{i}"
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
    assert report["version"] == 1 and report["labels"] == 200 and report["decided"] == 40 and report["p"] < 0.01
    assert before < 0.4 < 0.9 < recall(index, later) and report["after"] > report["before"]
    # Another process that opens it has learnt the same; the retriever that was given is as it was.
    again = Index.open(tmp_path / "index", retriever)
    (found, *_), (live, *_) = again.search(later[0].query, 3), index.search(later[0].query, 3)
    assert (
        found.id == live.id and found.log_odds == pytest.approx(live.log_odds, abs=1e-4) and retriever.examples is None
    )
    assert index.learned.numbers() == [1] and index.learned.current == index.info()["learned"] == 1
    # It is calibrated for what it does now.
    probabilities = [hits[0].probability for hits in index.search([e.query for e in later], 1)]
    assert abs(np.mean(probabilities) - recall(index, later)) < 0.2
    assert index.retriever.refusal.requests == 40
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
    assert 0 < report["labels"] <= 100 and report["skipped"] >= 200
    # Others that ask for something else than before are learnt beside it.
    swapped = [
        FeedbackEvent(f"new {e.query} new", f"d{7 - int(e.id[1:])}", time=900.0 + i) for i, e in enumerate(first)
    ]
    report = tune(index, swapped)
    assert report["version"] == index.learned.current and len(index.retriever.examples) > n


def test_the_newest_examples_stay_and_none_comes_back(index, monkeypatch):
    monkeypatch.setattr("rabtriever.training.tune.MAX_EXAMPLES", 100)
    first = choices(400)
    assert tune(index, first)["version"] == 1 and len(index.retriever.examples) == 100
    with pytest.raises(InputError, match="nothing new"):
        tune(index, first)


def test_after_learning_reranked_hits_are_on_the_same_scale(index, retriever):
    tune(index, choices(200))
    learned = index.retriever
    assert learned.reranked_calibration == learned.calibration != retriever.calibration
    assert learned.name_or_path is None  # no folder has what it learnt


def test_of_two_that_learn_at_the_same_time_one_is_told(index, retriever, tmp_path):
    other = Index.open(tmp_path / "index", retriever)
    number = other.learned.current
    tune(index, choices(200))
    with pytest.raises(BusyError, match="another process learnt"):
        other.learned.save(index.learned.load(1), number)


@pytest.mark.parametrize("shown", [False, True])
def test_choices_at_random_teach_nothing(tmp_path, retriever, shown):
    documents = [Document(f"d{i}", f"document about matter{i}") for i in range(16)]
    taken = 0
    for seed in range(20):
        random, events = Random(seed), []
        for i in range(200):
            ids = random.sample([document.id for document in documents], 8)
            above = tuple(ids) if shown else ()
            events.append(FeedbackEvent(f"cue{random.randrange(60)}", random.choice(ids), above, time=float(i)))
        index = Index.build(tmp_path / f"{seed}", retriever, documents)
        taken += tune(index, events)["version"] is not None
    assert taken <= 3  # of 20, at one in 20 by chance


def test_documents_added_later_are_found_as_before(index, retriever):
    assert tune(index, choices(200))["version"] == 1
    index.delete(["d7"])  # whose examples stay, and harm nobody
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
    # What a similar request chose before is no negative; what one chose later is.
    for moment, expected in ((5.0, [1, 1, 1]), (10.0, [1, 1, NEGATIVE, 1])):
        similar = [FeedbackEvent("late now", "d0", time=moment), *events]
        examples, _ = read_choices(index, WithSame(retriever), similar).examples(None, negatives=True)
        assert examples.counts.tolist() == expected
    # A request that comes twice with one document counts once; what was there before a time is known.
    assert len(read_choices(index, retriever, [*events, *events]).rows) == 2
    assert len(read_choices(index, retriever, events, since=1.0).rows) == 1
    with pytest.raises(InputError, match="none names a document of the index"):
        read_choices(index, retriever, events[2:])


class WithSame:
    """A retriever whose encoder finds "late" and "late now" the same."""

    def __init__(self, retriever):
        self.examples, self.encoder, self.fusion = None, Same(retriever.encoder), retriever.fusion


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
        predictor.output.weight.mul_(500.0)
    spoilt = Rabtriever(encoder, predictor, fusion=Fusion(20.0, 1.0, 1.0), trained_on=keys)
    index = Index.build(tmp_path / "index", spoilt, DOCUMENTS)
    events = [FeedbackEvent(f"matter{i % 8} filler{i}", f"d{i % 8}") for i in range(160)]
    report = tune(index, events)
    assert report["version"] == 1, sorted(report.items())
    assert not report["setting"]["correction"] and report["after"] > 0.9 > report["before"]
    found = index.search("matter3 filler9", 1)[0]
    assert found.id == "d3" and Index.open(tmp_path / "index", spoilt).search("matter3 filler9", 1)[0] == found


@pytest.mark.parametrize("helps", [True, False])
def test_a_query_adapter_stays_if_it_helps(tmp_path, helps):
    encoder = WordEncoder(WIDTH)
    cues = encoder.encode_queries([f"cue{i}" for i in range(N_DOCUMENTS)])
    documents = encoder.encode_documents([document.content for document in DOCUMENTS])
    answers = documents if helps else documents[::-1]
    adapter = (40 * np.linalg.pinv(cues) @ answers).astype(np.float32)
    predictor = random_predictor(WIDTH, 16, "mlp", 1)
    with torch.no_grad():
        predictor.output.weight.mul_(1e-3)  # the adapter is what counts
    made = Rabtriever(encoder, predictor, fusion=Fusion(20.0, 1.0, 1.0), query_adapter=adapter)
    index = Index.build(tmp_path / "index", made, DOCUMENTS)
    events = [FeedbackEvent(f"cue{i % 8} filler{i} filler{i + 1}", f"d{i % 8}", time=float(i)) for i in range(160)]
    before = recall(index, events)
    assert (before > 0.6) == helps
    decided = recall(index, events[128:])  # the newest fifth
    report = tune(index, events)
    assert report["version"] == 1 and report["setting"]["correction"] == helps and report["before"] == decided
    # What was measured is what an index serves that is opened anew.
    served = Index.open(tmp_path / "index", made)
    assert recall(served, events) == recall(index, events) > max(before, 0.9)


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
    (tmp_path / "index" / "learned" / "current").write_text("?")
    with pytest.raises(CorruptIndexError, match="not a version's number"):
        Index.open(tmp_path / "index", index._saved).search("cue1", 1)


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
