"""Students that start as their encoder's ranking, and learn from encoders, rerankers, labels, or several of these."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from training.teaching import contents, log_odds_of

from rabtriever.data import Document, RetrievalData
from rabtriever.encoders.llm import LLMEncoder
from rabtriever.errors import InputError
from rabtriever.index import Index
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.fusion import text_keys
from rabtriever.training import distiller as module
from rabtriever.training import new_documents
from rabtriever.training import weights as weights_module
from rabtriever.training.config import DistillConfig
from rabtriever.training.distill import distill
from rabtriever.training.distiller import Distiller
from rabtriever.training.new_documents import Setting
from rabtriever.training.teacher import Teacher

QUICK = DistillConfig(teacher_calls=0, rounds=3, steps=240, hidden_units=32, learning_rate=1e-2, dropout=0.0)
TOPICS = ["weather", "flight", "recipe", "music", "lamp", "sponge", "hotel", "bread", "wind", "table", "song", "city"]
STARTS = ["please show me the", "where is my", "how to find a", "turn the", "play", "what is the", "cook", "wipe a"]
ENDS = ["for the city", "of my hotel", "light"]


@pytest.fixture
def requests():
    """Twelve documents and 288 requests without labels."""
    documents = {topic: Document(topic, f"find the {topic} for me") for topic in TOPICS}
    texts = [" ".join(words) for words in itertools.product(STARTS, TOPICS, ENDS)]
    return RetrievalData("requests", documents, {f"q{i}": text for i, text in enumerate(texts)}, {})


@pytest.fixture
def encoder(sentence_encoders):
    return sentence_encoders["bert"]


@pytest.fixture
def other(sentence_encoders):
    return sentence_encoders["mpnet"]


def similarity(encoder, queries, documents):
    return encoder.encode_queries(queries) @ encoder.encode_documents(documents).T


def agreement(data, student, encoder, queries):
    """Share of queries whose best document is the same."""
    best = log_odds_of(student, data, queries).argmax(1)
    return (best == similarity(encoder, queries, contents(data)).argmax(1)).mean()


def unlearnt(made, line):
    """The list loss of a line of the log, less what no student can undercut: the entropy of the teacher's lists."""
    lists = made.targets.lists(torch.arange(len(made.data.train)), torch.arange(len(made.data.documents)))
    return made.log[line]["loss/list"] - torch.distributions.Categorical(logits=lists).entropy().mean().item()


def labelled(data, encoder, queries):
    """Labels of queries: what an encoder finds best."""
    ids = list(data.documents)
    best = similarity(encoder, [data.queries[query] for query in queries], contents(data)).argmax(1)
    return {query: {ids[i]: 1} for query, i in zip(queries, best, strict=True)}


def test_a_student_takes_over_the_ranking_of_an_encoder_without_a_label(requests, encoder, other):
    made = Distiller(encoder, Teacher.of([other]), QUICK)
    student = made.train(requests)
    assert unlearnt(made, -1) < 0.6 * unlearnt(made, 0)
    assert {"dev/R@1", "loss/list"} <= set(made.log[-1]) and "loss/labels" not in made.log[-1]
    assert made.log[-1]["teacher_calls"] == 0
    held_out, start = made.data.dev.texts, Rabtriever(encoder)
    assert len(held_out) > 10 and set(held_out).isdisjoint(made.data.train.texts)
    before, after = (agreement(requests, one, other, held_out) for one in (start, student))
    assert after > before + 0.2
    assert student.fusion.beta > 0 and student.fusion.gain > 0 and student.reranker is None
    assert student.fusion.new_gain == pytest.approx(0.25 * student.fusion.gain)
    taught = [text for text, asked in zip(contents(requests), made.taught.tolist(), strict=True) if asked]
    assert 0 < len(taught) <= len(requests.documents)
    np.testing.assert_array_equal(student.trained_on, np.sort(text_keys(taught)))


def test_an_untrained_student_is_its_encoder(requests, encoder, other):
    made = Distiller(encoder, Teacher.of([other]), QUICK)
    made.prepare(requests)
    scores = made.student.log_odds(made.data.train.states, made.data.z_d)
    expected = made.student.beta * similarity(encoder, made.data.train.texts, contents(requests))
    np.testing.assert_allclose(scores.detach(), expected, atol=1e-4)


@pytest.mark.parametrize("predictor", ["mlp", "quadratic"])
def test_what_is_saved_is_what_was_trained(requests, encoder, other, tmp_path, predictor):
    config = replace(QUICK, predictor=predictor, rounds=1, steps=80)
    student = distill(requests, Teacher.of([other]), tmp_path / "out", config, encoder=encoder)
    loaded = Rabtriever.from_pretrained(tmp_path / "out", device="cpu", backend="torch")
    assert loaded.fingerprint == student.fingerprint and loaded.fusion == student.fusion
    np.testing.assert_array_equal(loaded.encode_query("show music"), student.encode_query("show music"))
    notes = json.loads((tmp_path / "out" / "rabtriever.json").read_text())
    assert notes["teachers"] == [{"name": "model", "weight": 60.0}] and notes["teacher_calls"] == 0
    assert notes["training"]["list_weight"] == 1.0  # what the case chose
    assert "refusal" not in notes  # a teacher's labels do not say that something fits
    assert str(tmp_path) not in (tmp_path / "out" / "README.md").read_text()


def test_folded_is_unfolded_for_known_and_for_new_documents(requests, encoder, other):
    student = Distiller(encoder, Teacher.of([other]), replace(QUICK, rounds=1, steps=60)).train(requests)
    fusion, predictor = student.fusion, student.predictor
    new = ["wipe the table", "a song of rain", *contents(requests)[:2]]
    queries = list(requests.queries.values())[:5]
    z_q, z_d = (
        torch.from_numpy(encode(texts))
        for encode, texts in ((encoder.encode_queries, queries), (encoder.encode_documents, new))
    )
    gains = torch.tensor([fusion.new_gain] * 2 + [fusion.gain] * 2)
    expected = fusion.beta * z_q @ z_d.T + gains * predictor.log_odds(z_q, z_d)
    found = student.similarity(student.encode_query(queries), student.encode_document(new))
    assert fusion.gain > fusion.new_gain > 0
    np.testing.assert_allclose(found, expected.detach(), atol=1e-4)
    index = Index.build(None, student, [Document(str(i), text) for i, text in enumerate(new)])
    for row, hits in zip(found, index.search(queries, 4), strict=True):
        np.testing.assert_allclose([hit.log_odds for hit in hits], sorted(row, reverse=True), atol=1e-4)


def test_trainings_without_some_documents_choose_the_center(requests, encoder, other, teacher, monkeypatch):
    monkeypatch.setattr(new_documents, "MIN_QUERIES", 1)
    asked = {q: {topic: 1} for q, text in requests.queries.items() for topic in TOPICS if topic in text.split()}
    requests = replace(requests, qrels={"train": asked})
    for options in ({}, {"teacher_calls": 60}):
        made = Distiller(encoder, Teacher.of([], [teacher] if options else []), replace(QUICK, **options))
        seen = []
        monkeypatch.setattr(
            new_documents, "choose_with_trials", lambda trials, *_, seen=seen: seen.extend(trials) or Setting(2.0)
        )
        student = made.train(requests)
        assert student.fusion.center == 2.0 and 1 <= len(seen) <= new_documents.TRIALS
        assert all(one.student is not made.student and one.left_out.any() for one in seen)
        # The student, the data and what the teacher said stay those of the training.
        assert len(made.data.documents) == len(TOPICS) == len(made.taught)
        assert made.cached_teacher.calls <= 60
        new, known = "wipe the table", contents(requests)[made.taught.nonzero()[0]]
        z_q, z_d = (
            torch.from_numpy(encode(texts))
            for encode, texts in ((encoder.encode_queries, ["play music"]), (encoder.encode_documents, [new, known]))
        )
        gains = torch.tensor([student.fusion.new_gain, student.fusion.gain])
        correction = student.predictor.log_odds(z_q, z_d) - 2.0
        found = student.similarity(student.encode_query(["play music"]), student.encode_document([new, known]))
        np.testing.assert_allclose(found, (student.fusion.beta * z_q @ z_d.T + gains * correction).detach(), atol=1e-4)


def test_labelled_requests_are_remembered_if_that_was_chosen(requests, encoder, monkeypatch):
    asked = {q: {topic: 1} for q, text in requests.queries.items() for topic in TOPICS if topic in text.split()}
    data = replace(requests, qrels={"train": asked})
    monkeypatch.setattr(new_documents, "choose_by_dev", lambda *_: Setting(0.0, 0.3, 1.0))
    made = Distiller(encoder, Teacher(), replace(QUICK, examples=50, new_document_gain=1.0))
    student = made.train(data)
    assert student.examples.weight == 1.0 and 50 <= len(student.examples) < len(made.labelled)
    z_q, z_d = (
        torch.from_numpy(encode(["play music"])) for encode in (encoder.encode_queries, encoder.encode_documents)
    )
    found = student.similarity(student.encode_query(["play music"]), student.encode_document(["play music"]))
    correction = student.fusion.gain * student.predictor.log_odds(z_q, z_d) if student.predictor else 0
    shift = torch.from_numpy(student.examples.shift(z_q.numpy())) @ z_d.T
    np.testing.assert_allclose(found, (student.fusion.beta * z_q @ z_d.T + correction + shift).detach(), atol=1e-4)
    assert Distiller(encoder, Teacher(), replace(QUICK, examples=0)).train(data).examples is None


def test_pairs_that_an_earlier_distillation_read_are_learnt_from_and_not_part_of_the_budget(
    requests, encoder, other, teacher
):
    config = replace(QUICK, teacher_calls=60, rounds=2, steps=8)
    first = Distiller(encoder, Teacher.of(rerankers=[teacher]), config)
    first.train(requests)
    second = Distiller(other, Teacher.of(rerankers=[teacher]), config)
    second.train(requests, first.targets)
    pairs = list(map(tuple, second.targets.pairs.tolist()))
    assert len(pairs) == len(set(pairs)) == 60 + second.cached_teacher.calls and 40 < second.cached_teacher.calls <= 60
    assert pairs[:60] == list(map(tuple, first.targets.pairs.tolist()))


def test_rerankers_never_read_a_query_with_its_own_document(encoder, other, teacher, monkeypatch):
    """Not to train, to weigh, to label held-out queries, or to calibrate."""
    monkeypatch.setattr(weights_module, "MIN_QUERIES", 2)
    texts = [" ".join(words) for words in itertools.product(STARTS[:5], TOPICS[:4])]
    documents = {f"d{i}": Document(f"d{i}", text) for i, text in enumerate(texts)}
    data = RetrievalData("arguana", documents, {name: document.text for name, document in documents.items()}, {})
    right = {name: {f"d{(i + 1) % len(texts)}": 1} for i, name in enumerate(data.queries)}
    for qrels in ({}, {"train": dict(list(right.items())[6:]), "dev": dict(list(right.items())[:6])}):
        made = Distiller(encoder, Teacher.of([other], [teacher]), replace(QUICK, teacher_calls=420, rounds=2, steps=2))
        made.train(replace(data, qrels=qrels))
        assert made.schedule.calibrated_queries >= (2 if qrels else 1)
        assert len(teacher.scored) > 100 and all(query != document for query, document in teacher.scored)


def test_labels_alone_teach_what_the_encoder_does_not_know(requests, encoder, other):
    queries = list(requests.queries)
    data = replace(requests, qrels={"train": labelled(requests, other, queries)})
    made = Distiller(encoder, Teacher(), QUICK)
    student = made.train(data)
    assert made.log[-1]["teacher_calls"] == 0 and made.log[-1]["loss/labels"] < 0.8 * made.log[0]["loss/labels"]
    assert "loss/list" not in made.log[-1]
    held_out = made.data.dev.texts
    assert student.refusal.requests == len(held_out)
    assert (
        agreement(requests, student, other, held_out) > agreement(requests, Rabtriever(encoder), other, held_out) + 0.1
    )


def test_labels_and_an_encoder_teach_together(requests, encoder, other):
    data = replace(requests, qrels={"train": labelled(requests, other, list(requests.queries)[::2])})
    made = Distiller(encoder, Teacher.of([other]), replace(QUICK, rounds=1, steps=40))
    made.train(data)
    assert {"loss/labels", "loss/list"} <= set(made.log[-1]) and made.data.has_labels
    assert len(made.data.train) > len(made.labelled) > 0


@pytest.mark.parametrize("with_encoder", [False, True])
def test_a_reranker_teaches_pairs_and_lists(requests, encoder, other, teacher, with_encoder):
    config = replace(QUICK, teacher_calls=400, embedding_weight=1.0, log_odds_weight=1.0)
    made = Distiller(encoder, Teacher.of([other] if with_encoder else [], [teacher]), config)
    student = made.train(requests)
    last = made.log[-1]
    assert {"loss/embedding", "loss/log_odds", "loss/list", "teacher/pearson", "collapse/pair_error"} <= set(last)
    assert len(teacher.scored) == len(set(teacher.scored)) <= 400 and made.cached_teacher.calls == len(teacher.scored)
    assert student.reranker.fingerprint == teacher.fingerprint and student.fusion.rerank == 0.5
    # The student's own encoder joins the teacher: for a quarter of the other encoders, or for all of them.
    rows, documents = torch.arange(len(made.data.train)), torch.arange(len(TOPICS))
    own, others = (similarity(one, made.data.train.texts, contents(requests)) for one in (encoder, other))
    base = 30.0 * others + 7.5 * own if with_encoder else 30.0 * own
    np.testing.assert_allclose(made.targets.similarity(rows, documents), base, atol=1e-3)
    read = made.targets
    w = made.student.predictor.choice_direction
    assert w.shape == (teacher.llm.hidden_size + 1,) and w[-1] == 1
    torch.testing.assert_close(read.states @ w[:-1], read.log_odds, atol=1e-3, rtol=1e-3)


def test_all_of_a_budget_is_spent_and_no_more(requests, encoder, teacher):
    """Labels that the teacher gives dev queries are part of it."""
    for calls in (1, 60, 150, 301):
        teacher.scored.clear()
        made = Distiller(
            encoder, Teacher.of(rerankers=[teacher]), replace(QUICK, teacher_calls=calls, steps=6, seed=calls)
        )
        made.train(requests)
        assert made.cached_teacher.calls == calls, calls
        labelled_by_teacher = 10 * made.schedule.calibrated_queries
        assert len(made.targets.pairs) == calls - labelled_by_teacher and labelled_by_teacher <= calls / 10


@pytest.mark.parametrize("calibration_queries", [0, 100])
def test_few_calls_teach_although_nothing_is_left_for_held_out_queries(requests, encoder, teacher, calibration_queries):
    config = replace(QUICK, teacher_calls=60, calibration_queries=calibration_queries)
    made = Distiller(encoder, Teacher.of(rerankers=[teacher]), config)
    student = made.train(requests)
    assert not len(made.data.dev) and student.predictor is not None and student.fusion.gain == 1.0
    assert student.predictor.output.weight.any()


def test_without_a_held_out_query_what_was_learnt_stays(requests, encoder, other):
    one = replace(requests, queries=dict(list(requests.queries.items())[:1]))
    made = Distiller(encoder, Teacher.of([other]), QUICK)
    student = made.train(one)
    assert not len(made.data.dev) and student.fusion.gain == 1.0
    assert made.log[-1]["loss/list"] < made.log[0]["loss/list"]
    assert agreement(one, student, other, made.data.train.texts) == 1.0


def test_zero_shot_keeps_ties(requests, encoder, tmp_path):
    """Nothing can be gained over a teacher that is the encoder itself."""
    student = distill(requests, Teacher.of([encoder]), tmp_path / "out", QUICK, encoder=encoder)
    assert student.fusion.gain == student.fusion.new_gain == 0 and student.predictor is None
    queries = list(requests.queries.values())
    order = np.argsort(-log_odds_of(student, requests, queries), axis=1, kind="stable")
    expected = np.argsort(-similarity(encoder, queries, contents(requests)), axis=1, kind="stable")
    np.testing.assert_array_equal(order, expected)
    loaded = Rabtriever.from_pretrained(tmp_path / "out", device="cpu", backend="torch")
    assert loaded.fingerprint == student.fingerprint and loaded.fusion == student.fusion


def test_a_document_added_later_gets_the_new_gain(requests, encoder, other):
    config = replace(QUICK, new_document_gain=0.5, rounds=1, steps=60)
    student = Distiller(encoder, Teacher.of([other]), config).train(requests)
    assert student.fusion.new_gain == pytest.approx(0.5 * student.fusion.gain) and student.fusion.gain > 0
    index = Index.build(None, student, requests.documents.values())
    index.add([Document("tuba", "plays the tuba"), Document("again", requests.documents["lamp"].text)])
    z_d = encoder.encode_documents(["plays the tuba"])
    z_q = torch.from_numpy(encoder.encode_queries(["bread"]))
    correction = student.predictor.log_odds(z_q, torch.from_numpy(z_d)).item()
    expected = student.fusion.beta * (z_q.numpy() @ z_d.T).item() + student.fusion.new_gain * correction
    hits = {hit.id: hit for hit in index.search("bread", len(TOPICS) + 2)}
    assert hits["tuba"].log_odds == pytest.approx(expected, abs=1e-4)
    assert hits["again"].log_odds == hits["lamp"].log_odds  # the text was trained on, under whatever id


def test_training_ends_when_rounds_bring_no_better_student_and_the_last_good_one_stays(
    requests, encoder, other, monkeypatch
):
    config = replace(QUICK, rounds=12, steps=120)
    made = Distiller(encoder, Teacher.of([other]), config)
    recalls = iter([0.2, 0.3, 0.5, 0.5, 0.4, 0.5, 0.1, 0.9])  # zero-shot's, then each round's
    states = []

    def recall():
        states.append({name: value.clone() for name, value in made.student.state_dict().items()})
        return next(recalls)

    monkeypatch.setattr(made, "_dev_recall", recall)
    monkeypatch.setattr(module, "MIN_STOPPING_QUERIES", 1)
    made.train(requests)
    assert [line["round"] for line in made.log] == [1, 2, 3, 4, 5, 6]  # three rounds, and the one that decays
    assert next(recalls) == 0.9
    for name, value in made.student.state_dict().items():
        assert torch.equal(value, states[5][name])  # the last that is as good as the best


def test_time_ends_a_training(requests, encoder, other, monkeypatch):
    clock = itertools.count(step=40)
    monkeypatch.setattr(module.time, "time", lambda: next(clock))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    made = Distiller(encoder, Teacher.of([other]), replace(QUICK, rounds=50, steps=200, minutes=1.5))
    made.train(requests)
    assert 1 < len(made.log) < 6 and made.schedule.rounds == len(made.log)


def weights(made):
    return torch.cat([weight.flatten() for weight in made.student.state_dict().values()])


def test_equal_seeds_give_equal_students_and_other_seeds_others(requests, encoder, other, teacher):
    config = replace(QUICK, teacher_calls=120, rounds=2, steps=20)
    both = Teacher.of([other], [teacher])
    first = Distiller(encoder, both, config)
    first.train(requests)
    assert len(teacher.scored) == first.cached_teacher.new_calls == 120
    teacher.scored.clear()
    torch.manual_seed(3)  # which is none of its business
    again = Distiller(encoder, both, config)
    again.train(requests)
    assert torch.equal(weights(again), weights(first))
    assert not teacher.scored and again.cached_teacher.new_calls == 0 and again.cached_teacher.calls == 120
    assert again.log == [{**line, "new_teacher_calls": 0} for line in first.log]
    seeded = Distiller(encoder, both, replace(config, seed=1))
    seeded.train(requests)
    assert not torch.equal(weights(seeded), weights(first))


def test_an_llm_as_the_encoder_learns_from_an_encoder(requests, other, teacher):
    made = Distiller(LLMEncoder(teacher.llm), Teacher.of([other]), QUICK)
    student = made.train(requests)
    assert unlearnt(made, -1) < 0.5 * unlearnt(made, 0) and student.fusion.beta == 0
    assert agreement(requests, student, other, list(requests.queries.values())) > 0.6


def test_a_query_never_learns_of_its_own_document(encoder, other):
    """As in ArguAna: the corpus holds the queries, under the same ids."""
    texts = [" ".join(words) for words in itertools.product(STARTS, TOPICS[:8])]
    documents = {f"d{i}": Document(f"d{i}", text) for i, text in enumerate(texts)}
    data = RetrievalData("arguana", documents, {name: document.text for name, document in documents.items()}, {})
    made = Distiller(encoder, Teacher.of([other]), replace(QUICK, rounds=1, steps=8))
    made.train(data)
    dev, train = made.data.dev, made.data.train
    assert len(dev) and (dev.own_documents >= 0).all() and (train.own_documents >= 0).all()
    assert all([own] != positives for own, positives in zip(dev.own_documents.tolist(), dev.positives, strict=True))


def test_nothing_to_learn_from_is_one_line(requests, encoder, other):
    with pytest.raises(InputError, match="nothing to learn from"):
        distill(requests, Teacher(), config=QUICK, encoder=encoder)
    with pytest.raises(InputError, match="nothing to learn from"):
        distill(requests, Teacher.of([other]), config=replace(QUICK, list_weight=0.0), encoder=encoder)
    with pytest.raises(InputError, match="encoder 'teacher': no LLM among the teachers"):
        distill(requests, Teacher.of([other]), config=QUICK, encoder="teacher")


def test_labels_never_push_down_a_document_without_any(requests, encoder, other):
    """It is as good as one that comes later; with a teacher, whose lists say something of it, it takes part."""
    labels = labelled(requests, other, list(requests.queries))
    data = replace(requests, qrels={"train": {query: of for query, of in labels.items() if "music" not in of}})
    music = list(requests.documents).index("music")
    for teacher in (Teacher(), Teacher.of([other])):
        made = Distiller(encoder, teacher, QUICK)
        made.prepare(data)
        assert (music in made.labelled_among.tolist()) == bool(teacher.encoders)
        assert set(made.labelled_among.tolist()) >= {d for of_query in made.data.train.positives for d in of_query}


def test_lists_of_labelled_queries_alone_teach_no_document_that_no_label_names(requests, encoder, other):
    labels = labelled(requests, other, list(requests.queries))
    train = {query: of for query, of in labels.items() if "music" not in of}
    data = replace(requests, queries={query: requests.queries[query] for query in train}, qrels={"train": train})
    made = Distiller(encoder, Teacher.of([other]), QUICK)
    made.prepare(data)
    named = {d for of_query in made.data.train.positives for d in of_query}
    assert set(made.labelled_among.tolist()) == named == set(made.taught.nonzero().flatten().tolist())
