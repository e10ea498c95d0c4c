"""The paper's case: one LLM is the teacher and, encoding each text apart, the student's encoder."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from training.teaching import QUICK, contents, correlation, distill_own, log_odds_of, own_distiller

from rabtriever.data import Document, RetrievalData, concatenate
from rabtriever.encoders.llm import LLMEncoder
from rabtriever.errors import InputError
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.calibration import Calibration
from rabtriever.training.losses import embedding_error, label_loss, log_odds_error, reverse_kl


def dev_from(data, teacher, split="test"):
    """Makes a split the dev split, labelled by the teacher, so that its log-odds increase with relevance."""
    queries = data.qrels.pop(split)
    best = teacher.log_odds([data.queries[query] for query in queries], contents(data)).argmax(1)
    data.qrels["dev"] = {query: {list(data.documents)[i]: 1} for query, i in zip(queries, best, strict=True)}
    teacher.scored.clear()


def test_the_student_learns_its_teachers_log_odds(tiny_data, teacher):
    made = own_distiller(teacher)
    student = made.train(tiny_data)
    queries = list(tiny_data.labelled_queries("train").values())
    assert correlation(tiny_data, student, teacher, queries) > 0.8
    first, last = made.log[0], made.log[-1]
    assert last["loss/embedding"] < 0.6 * first["loss/embedding"]  # though its pairs are three times as many
    # A predictor that looks at the document beats one that averages it away.
    assert last["collapse/pair_error"] < last["collapse/mean_document"] and last["collapse/spread"] > 0
    expected = "loss/embedding loss/log_odds collapse/copy_query collapse/mean_document collapse/spread"
    assert {*expected.split(), "teacher/pearson", "teacher_calls", "new_teacher_calls", "dev/R@1"} <= set(last)
    assert "loss/labels" not in last  # which has no weight


@pytest.mark.parametrize(
    "change",
    [
        {"predictor": "quadratic"},
        {"encoder": "last"},
        {"log_odds_weight": 0.0},
        {"log_odds_weight": 0.0, "kl_weight": 1.0},
        {"embedding_weight": 0.0},
        {"rounds": 1},
    ],
    ids=lambda change: "-".join(map(str, change)),
)
def test_every_objective_teaches_and_what_is_saved_is_what_was_trained(tiny_data, teacher, tmp_path, change):
    encoder = LLMEncoder(teacher.llm, change.pop("encoder")) if "encoder" in change else "teacher"
    student = distill_own(tiny_data, teacher, tmp_path / "out", replace(QUICK, **change), encoder)
    queries = list(tiny_data.labelled_queries("train").values())
    assert correlation(tiny_data, student, teacher, queries) > 0.7
    loaded = Rabtriever.from_pretrained(tmp_path / "out", dtype="float32")
    assert loaded.fingerprint == student.fingerprint and loaded.predictor.kind == student.predictor.kind
    assert loaded.reranker.fingerprint == teacher.fingerprint
    np.testing.assert_array_equal(loaded.encode_query("show music"), student.encode_query("show music"))


def test_labels_teach_what_the_teacher_does_not_know(tiny_data, teacher):
    student = distill_own(tiny_data, teacher, config=replace(QUICK, label_weight=5.0, log_odds_weight=0.0))
    labelled = tiny_data.labelled_queries("train")
    best = log_odds_of(student, tiny_data, list(labelled.values())).argmax(1)
    hits = [list(tiny_data.documents)[i] in tiny_data.qrels["train"][q] for i, q in zip(best, labelled, strict=True)]
    assert sum(hits) >= len(hits) - 1  # one query is held out as dev


def test_labels_alone_need_no_teacher_call(tiny_data, teacher):
    made = own_distiller(teacher, replace(QUICK, teacher_calls=0, label_weight=1.0))
    made.train(tiny_data)
    assert not teacher.scored and made.cached_teacher.calls == 0 and made.log[-1]["loss/labels"] < 0.1
    assert "loss/embedding" not in made.log[-1]


def test_a_teacher_whose_losses_have_no_weight_is_not_paid(tiny_data, teacher):
    config = replace(QUICK, label_weight=1.0, embedding_weight=0.0, log_odds_weight=0.0)
    distill_own(tiny_data, teacher, config=config)
    assert not teacher.scored


def test_without_labels_and_teacher_calls_there_is_nothing_to_learn_from(tiny_data, teacher):
    with pytest.raises(InputError, match="nothing to learn from"):
        own_distiller(teacher, replace(QUICK, teacher_calls=0)).train(tiny_data)
    weights = dict.fromkeys(("embedding_weight", "log_odds_weight", "list_weight"), 0.0)
    with pytest.raises(InputError, match="nothing to learn from"):
        own_distiller(teacher, replace(QUICK, **weights))
    with pytest.raises(InputError, match="nothing to learn from"):
        distill_own(replace(tiny_data, qrels={}), teacher, config=replace(QUICK, teacher_calls=0, label_weight=1.0))


@pytest.mark.parametrize("calls", [1, 10, 40, 100, 1000])
@pytest.mark.parametrize("split", ["dev", "test"])
def test_no_more_pairs_are_scored_than_the_budget_and_all_are_reported(tiny_data, teacher, tmp_path, calls, split):
    tiny_data.qrels[split] = tiny_data.qrels.pop("test")  # 4 dev queries, or the 1 that is held out of 8
    config = replace(QUICK, teacher_calls=calls, pairs_per_query=3, rounds=12, steps=12)
    distill_own(tiny_data, teacher, tmp_path / "out", config)
    log = [json.loads(line) for line in (tmp_path / "out" / "distill_log.jsonl").read_text().splitlines()]
    notes = json.loads((tmp_path / "out" / "rabtriever.json").read_text())
    assert len(teacher.scored) == len(set(teacher.scored)) <= calls
    assert log[-1]["teacher_calls"] == log[-1]["new_teacher_calls"]  # before the calibration
    assert notes["teacher_calls"] == len(teacher.scored)
    if calls >= 10:
        n_train, n_dev = (8, 4) if split == "dev" else (7, 1)
        paid = 6 * min(n_dev, calls // 10 // 6)
        assert log[-1]["teacher_calls"] == min(calls - paid, 6 * n_train) == len(teacher.scored) - paid


def test_what_was_paid_for_is_not_asked_again(tiny_data, teacher):
    first, second = own_distiller(teacher), own_distiller(teacher)
    student = first.train(tiny_data)
    teacher.scored.clear()
    assert second.train(tiny_data).fingerprint == student.fingerprint  # cached = live, and the seed decides the rest
    assert (
        not teacher.scored
        and second.cached_teacher.new_calls == 0
        and second.cached_teacher.calls == first.cached_teacher.calls
    )


def test_a_distiller_trains_anew_each_time_and_leaves_the_callers_random_numbers_alone(tiny_data, teacher):
    made = own_distiller(teacher)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = made.train(tiny_data)
    assert torch.equal(torch.rand(3), expected)
    assert made.train(tiny_data).fingerprint == first.fingerprint and len(made.log) == QUICK.rounds


def test_works_without_qrels(tiny_data, teacher):
    tiny_data.qrels.clear()
    made = own_distiller(teacher)
    student = made.train(tiny_data)
    assert "dev/R@1" not in made.log[-1]
    assert correlation(tiny_data, student, teacher, list(tiny_data.queries.values())) > 0.8


def test_without_labels_the_teachers_calibration_stays(tiny_data, reranker, tmp_path):
    tiny_data.qrels.clear()
    taught = GenerativeReranker(reranker.llm, Calibration(2.0, -3.0))
    student = distill_own(tiny_data, taught, tmp_path / "out", QUICK)
    loaded = Rabtriever.from_pretrained(tmp_path / "out", dtype="float32")
    for model in (student, loaded):  # the student estimates the teacher's log-odds: its probabilities are the teacher's
        assert model.reranker.calibration == model.calibration == Calibration(2.0, -3.0)


@pytest.mark.parametrize("change", [{"calibration_queries": 0}, {"teacher_calls": 0, "label_weight": 1.0}])
def test_a_teacher_that_is_not_calibrated_anew_keeps_its_calibration(tiny_data, reranker, change):
    taught = GenerativeReranker(reranker.llm, Calibration(2.0, -3.0))
    student = distill_own(tiny_data, taught, config=replace(QUICK, **change))
    assert student.reranker.calibration == Calibration(2.0, -3.0)
    learnt_from_teacher = "teacher_calls" not in change
    assert (student.calibration == Calibration(2.0, -3.0)) == learnt_from_teacher


def test_a_dev_split_without_a_train_split_calibrates_and_measures(tiny_data, teacher):
    dev_from(tiny_data, teacher)
    tiny_data.qrels.pop("train")
    made = own_distiller(teacher, replace(QUICK, teacher_calls=300))
    student = made.train(tiny_data)
    assert "dev/R@1" in made.log[-1]
    assert student.calibration != Calibration() and student.reranker.calibration != Calibration()
    assert {tiny_data.queries[query] for query in tiny_data.qrels["dev"]}.isdisjoint(made.data.train.texts)


def test_calibration_is_fitted_saved_and_never_part_of_the_fingerprint(tiny_data, teacher, tmp_path):
    dev_from(tiny_data, teacher)
    # Labels cost nothing: the teacher's calls are spent the same way, whatever is left for its calibration.
    config = replace(QUICK, label_weight=5.0, teacher_calls=50)
    fitted = distill_own(tiny_data, teacher, tmp_path / "fitted", config)
    plain = distill_own(tiny_data, teacher, config=replace(config, calibration_queries=0))
    assert plain.calibration == Calibration() and fitted.calibration != Calibration()
    assert fitted.fingerprint == plain.fingerprint
    assert Rabtriever.from_pretrained(tmp_path / "fitted").calibration == fitted.calibration


def test_neither_the_teacher_nor_its_llm_changes(tiny_data, teacher):
    dev_from(tiny_data, teacher)
    before = {name: weight.clone() for name, weight in teacher.llm.loaded.model.state_dict().items()}
    calibration = teacher.calibration
    student = distill_own(tiny_data, teacher, config=replace(QUICK, teacher_calls=300))
    assert teacher.calibration == calibration and student.reranker.calibration != calibration
    for name, weight in teacher.llm.loaded.model.state_dict().items():
        torch.testing.assert_close(weight, before[name], atol=0, rtol=0)


def test_held_out_queries_are_never_scored_for_training(tiny_data, teacher):
    both = concatenate([tiny_data, replace(tiny_data, name="other")])
    distill_own(both, teacher, config=replace(QUICK, teacher_calls=2000, calibration_queries=0))
    held_out = {both.queries[query] for split in ("dev", "test") for query in both.qrels[split]}
    assert held_out and held_out.isdisjoint({query for query, _ in teacher.scored})


def test_unlabelled_queries_are_trained_on_beside_labelled_ones(tiny_data, teacher):
    train = tiny_data.qrels["train"]
    few = replace(tiny_data, qrels={"train": dict(list(train.items())[:2]), "test": tiny_data.qrels["test"]})
    made = own_distiller(teacher)
    made.train(few)
    assert len(made.data.train) == 7 and len(made.labelled) == 1 and len(made.data.dev) == 1


def test_no_query_is_paired_with_its_own_document(teacher):
    """As in ArguAna: the corpus holds the queries, under the same ids."""
    words = ["rain", "wind", "bread", "music", "lamp", "table"]
    documents = {word: Document(word, f"find the {word}") for word in words}
    qrels = {word: {word: 1, words[i - 1]: 1} for i, word in enumerate(words)}
    queries = {word: document.text for word, document in documents.items()}
    data = RetrievalData("arguana", documents, queries, {"train": qrels, "dev": {"lamp": qrels["lamp"]}})
    config = replace(QUICK, teacher_calls=1000, label_weight=1.0)
    made = own_distiller(teacher, config)
    made.train(data)
    assert len(teacher.scored) == 6 * 5 and all(query != document for query, document in teacher.scored)
    assert made.data.train.own_documents.tolist() == [0, 1, 2, 3, 5] and made.data.dev.positives == [[3]]


def test_the_teacher_scores_dev_queries_as_its_calibration_can_afford_and_no_query_itself(tiny_data, teacher):
    own = {query: Document(query, text) for query, text in tiny_data.queries.items()}
    dev_from(tiny_data, teacher)
    data = replace(tiny_data, documents={**tiny_data.documents, **own})
    made = own_distiller(teacher, replace(QUICK, teacher_calls=300))
    made.train(data)
    dev_texts = set(made.data.dev.texts)
    scored = [(query, document) for query, document in teacher.scored if query in dev_texts]
    n_queries = made.schedule.calibrated_queries
    assert n_queries == 3 and len(scored) == len(set(scored)) == 10 * n_queries
    assert len({query for query, _ in scored}) == n_queries and all(query != document for query, document in scored)


def test_what_is_minimised_is_the_weighted_sum_of_the_losses(tiny_data, teacher):
    weights = {"embedding_weight": 2.0, "log_odds_weight": 3.0, "kl_weight": 5.0, "label_weight": 7.0}
    made = own_distiller(teacher, replace(QUICK, rounds=1, steps=2, dropout=0.0, learning_rate=1e-9, **weights))
    made.train(tiny_data)
    predictor, train, targets, state = made.student.predictor, made.data.train, made.targets, made.generator.get_state()
    generator = torch.Generator().set_state(state)
    rows = torch.randint(len(targets.pairs), (256,), generator=generator)
    (q, d), target = targets.pairs[rows].T, targets.states[rows]
    predicted, w = predictor(train.states[q], made.data.z_d[d]), predictor.choice_direction
    labelled = train.select(made.labelled[torch.randint(len(made.labelled), (64,), generator=generator)])
    expected = {
        "loss/embedding": embedding_error(predicted, target, predictor.output_scale),
        "loss/log_odds": log_odds_error(predicted @ w, target @ w),
        "loss/kl": reverse_kl(predicted @ w, target @ w),
        "loss/labels": label_loss(
            lambda q, d: predictor.log_odds(q, made.data.z_d[d]), labelled, made.labelled_among, generator
        ),
    }
    losses = made.compute_losses()
    torch.testing.assert_close(losses, expected)
    total = sum(weight * loss for weight, loss in zip((2, 3, 5, 7), expected.values(), strict=True))
    expected = torch.cat([weight.flatten() for weight in torch.autograd.grad(total, list(predictor.parameters()))])
    made.generator.set_state(state)
    made._fit(1, "steps")  # clips the gradient, which leaves its direction
    gradient = torch.cat([weight.grad.flatten() for weight in predictor.parameters()])
    assert torch.cosine_similarity(gradient, expected, dim=0) > 0.9999


def test_pairs_are_spread_at_first_and_follow_the_students_ranking_once_it_has_learnt(tiny_data, teacher):
    documents = {f"d{i}": Document(f"d{i}", f"{topic} number {i}") for i, topic in enumerate(["lamp", "rain"] * 150)}
    data = RetrievalData("large", documents, tiny_data.queries, {})
    made = own_distiller(teacher, replace(QUICK, rounds=1, exploration=0.0, teacher_calls=120, steps=40))
    made.train(data)
    assert (
        len(made.targets.pairs[:, 1].unique()) > 80
    )  # to random weights, the same few would be the best for every query
    pairs = made.sample_pairs(torch.arange(12))
    with torch.no_grad():
        log_odds = made.student.predictor.log_odds(made.data.train.states, made.data.z_d)
    log_odds[made.targets.pairs[:, 0], made.targets.pairs[:, 1]] = float("-inf")
    rank = (-log_odds).argsort(1).argsort(1)[pairs[:, 0], pairs[:, 1]]
    assert len(pairs) == 12 * made.schedule.pairs_per_query and rank.max() < 64 + made.schedule.pairs_per_query


def test_callbacks_receive_what_the_log_holds(tiny_data, teacher):
    seen = []

    class Callback:
        def on_log(self, step, metrics):
            seen.append({"round": step, **metrics})

    made = own_distiller(teacher, callbacks=[Callback()])
    made.train(tiny_data)
    assert seen == made.log and [line["round"] for line in seen] == [1, 2, 3, 4]
