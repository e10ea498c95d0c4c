"""Documents that come after a training."""

import numpy as np
import pytest
import torch

from rabtriever.scoring.examples import RIDGES, WEIGHTS, Examples
from rabtriever.scoring.fusion import Fusion
from rabtriever.scoring.predictor import Predictor
from rabtriever.training import new_documents
from rabtriever.training.encoded_data import EncodedData, EncodedQueries
from rabtriever.training.new_documents import (
    Measured,
    Setting,
    Trial,
    choose_by_dev,
    choose_setting,
    choose_with_trials,
    leave_out,
    measure_settings,
    without,
)
from rabtriever.training.student import Student
from rabtriever.training.targets import Targets


def queries(positives, own=None, width=4):
    generator = torch.Generator().manual_seed(len(positives))
    states = torch.nn.functional.normalize(torch.randn(len(positives), width, generator=generator), dim=1)
    own = torch.full((len(positives),), -1) if own is None else torch.tensor(own)
    return EncodedQueries([f"query {i}" for i in range(len(positives))], states, positives, own)


@pytest.fixture
def data():
    """Five documents; train queries 0 to 5, two of them without labels, one of them a document."""
    z_d = torch.eye(5, 4)
    train = queries([[0], [1, 4], [2], [], [], [3]], own=[-1, -1, 4, -1, -1, 1])
    return EncodedData([f"document {i}" for i in range(5)], z_d, train, queries([[0], [1], [0, 1], [4]] * 40), True)


def test_without_some_documents_their_queries_and_pairs_are_gone(data):
    left_out = torch.tensor([False, True, False, False, False])
    unlabelled = data.train.states[3:5]
    teacher_states = torch.zeros(6, 4)
    teacher_states[3, 1] = teacher_states[4, 2] = 1.0  # the teacher's best of query 3 is the one left out
    pairs = torch.tensor([[0, 0], [0, 1], [2, 4], [3, 0], [5, 3]])
    targets = Targets([(2.0, teacher_states, data.z_d)], pairs, torch.arange(5.0), torch.arange(10.0).view(5, 2))
    reduced, remaining = without(data, targets, left_out)
    assert reduced.documents == ["document 0", "document 2", "document 3", "document 4"]
    assert reduced.train.texts == ["query 0", "query 2", "query 4", "query 5"]
    assert reduced.train.positives == [[0], [1], [], [2]]
    assert reduced.train.own_documents.tolist() == [-1, 3, -1, -1]
    torch.testing.assert_close(reduced.train.states[2], unlabelled[1])
    assert remaining.pairs.tolist() == [[0, 0], [1, 3], [3, 2]]
    assert remaining.log_odds.tolist() == [0, 2, 4] and remaining.states.tolist() == [[0, 1], [4, 5], [8, 9]]
    rows = torch.tensor([0, 2, 4, 5])
    before = targets.lists(rows, (~left_out).nonzero().flatten())
    torch.testing.assert_close(remaining.lists(torch.arange(4), torch.arange(4)), before)
    assert reduced.dev is data.dev


def test_a_querys_own_document_is_not_what_it_asks_for(data):
    """An unlabelled query that is document 1 stays without that document, if another one is its answer."""
    train = queries([[], []], own=[1, 1])
    states = torch.eye(5, 4)[[1, 1]].clone()
    states[0, 2], states[1, 3] = 0.5, 0.5
    data = EncodedData(data.documents, data.z_d, train, data.dev, True)
    targets, left_out = Targets([(1.0, states, data.z_d)]), torch.tensor([False, True, False, True, False])
    assert without(data, targets, left_out)[0].train.texts == ["query 0"]


def test_fifths_of_the_taught_documents_are_left_out_if_dev_can_judge(data, monkeypatch):
    taught, generator = torch.tensor([True, True, True, True, True]), torch.Generator().manual_seed(0)
    draws = [[int(found.nonzero()) for found in leave_out(data, taught, generator)] for _ in range(40)]
    # Documents 2 and 3 have no dev query, so that nothing could be measured.
    assert {document for drawn in draws for document in drawn} == {0, 1, 4}
    assert all(len(set(drawn)) == len(drawn) <= 3 for drawn in draws) and max(map(len, draws)) == 3
    assert leave_out(data, torch.zeros(5, dtype=torch.bool), generator) == []
    monkeypatch.setattr(new_documents, "MIN_QUERIES", 41)
    assert leave_out(data, taught, generator) == []


def test_new_documents_are_found_as_often_as_by_the_encoder_at_the_least_cost():
    def trial(recalls, new, zero_shot):
        return Measured(dict(enumerate(recalls)), dict(enumerate(new)), zero_shot)

    assert choose_setting([trial([0.8, 0.8, 0.7], [0.6, 0.7, 0.8], 0.5)]) == 0  # of equal ones the least
    assert choose_setting([trial([0.8, 0.7, 0.6], [0.4, 0.5, 0.8], 0.5)]) == 1  # what the encoder finds is found
    assert choose_setting([trial([0.8, 0.7, 0.6], [0.4, 0.5, 0.45], 0.9)]) == 1  # as near to that as can be
    trials = [trial([0.8, 0.9, 0.6], [0.4, 0.5, 0.6], 0.5), trial([0.8, 0.6, 0.6], [0.6, 0.6, 0.7], 0.5)]
    assert choose_setting(trials) == 0  # means over trials


class Flat(Predictor):
    """Prefers what it was trained on by 3 log-odds, whatever the query."""

    def log_odds(self, z_q, z_d):
        return torch.full((len(z_q), len(z_d)), 4.0)


def test_the_center_gives_new_documents_what_the_others_were_given():
    n, width = 200, 8
    left_out = torch.zeros(4, dtype=torch.bool)
    left_out[0] = True
    dev = queries([[i % 4] for i in range(n)], width=width)
    z_d = torch.nn.functional.normalize(torch.randn(4, width, generator=torch.Generator().manual_seed(1)), dim=1)
    states = torch.nn.functional.normalize(z_d[torch.arange(n) % 4] + 0.3 * dev.states, dim=1)
    dev = EncodedQueries(dev.texts, states, dev.positives, dev.own_documents)
    data = EncodedData(list("abcd"), z_d, dev, dev, True)
    student = Student(Flat(width, 2), 2.0)
    fusion = Fusion(2.0, 1.0, 0.25)
    gains = torch.where(left_out, 0.25, 1.0)
    trials = [Trial(student, gains, None, left_out)]
    center = choose_with_trials(trials, student, data, torch.ones(4), fusion, None).center
    assert 2 < 0.75 * center < 4  # its part of 4 is a quarter: the others are 3 ahead

    def wins(center):
        gains = torch.where(left_out, 0.25, 1.0)
        return (
            (student.log_odds(states, z_d, gains, center).argmax(1) == torch.arange(n) % 4).view(-1, 4).float().mean(0)
        )

    assert wins(0.0)[0] == 0 and (wins(center) > 0.9).all()


def test_examples_are_measured_with_the_centers_and_kept_where_they_help(data):
    """Requests lie apart from their documents, but near to each other: only examples know whose they are."""
    n, width = 160, 8
    generator = torch.Generator().manual_seed(1)
    z_d, centers = torch.eye(4, width), torch.eye(4, width).roll(4, 1)
    states = torch.nn.functional.normalize(
        centers[torch.arange(n) % 4] + 0.2 * torch.randn(n, width, generator=generator), dim=1
    )
    dev = EncodedQueries([str(i) for i in range(n)], states, [[i % 4] for i in range(n)], torch.full((n,), -1))
    data = EncodedData(list("abcd"), z_d, dev, dev, True)
    student = Student(Predictor(width, 2, choice_direction=torch.ones(1), output_size=1), 20.0).eval()
    keys = np.arange(4)
    examples = Examples.of(states[:40].numpy(), dev.positives[:40], keys, z_d.numpy())
    chosen = choose_by_dev(student, data, torch.ones(4), examples, 0.02)
    assert chosen.weight in WEIGHTS and chosen.ridge in RIDGES and chosen.center == 0
    recalls = measure_settings(student, data, torch.ones(4), [Setting(), chosen], examples)
    assert recalls[chosen] > 0.9 > 0.5 > recalls[Setting()]
    assert choose_by_dev(student, data, torch.ones(4), None, 0.02) == Setting()
    student.examples = examples.with_strength(chosen.ridge, chosen.weight)
    direct = (student.log_odds(states, z_d).argmax(1) == torch.arange(n) % 4).float().mean().item()
    assert direct == pytest.approx(recalls[chosen])
    student.examples = None
    left_out = torch.tensor([True, False, False, False])
    rows = [row for row in range(40) if row % 4]
    fewer = Examples.of(states[rows].numpy(), [dev.positives[row] for row in rows], keys, z_d.numpy())
    trial = Trial(student, torch.where(left_out, 0.25, 1.0), fewer, left_out)
    strong, shared = Setting(0.0, 0.1, WEIGHTS[-1]), Setting(0.0, 0.1, WEIGHTS[-1], 1.0)
    measured = trial.measure(data, [Setting(), strong, shared])
    assert measured.new[strong] <= measured.new[Setting()] and measured.all[strong] > measured.all[Setting()]
    assert measured.new[shared] > measured.new[strong]  # what no example speaks for gets its share
    chosen = choose_with_trials([trial], student, data, torch.ones(4), Fusion(20.0, 1.0, 0.25), examples)
    kept = trial.measure(data, [Setting(), chosen])
    assert chosen.weight > 0 and kept.new[chosen] >= min(kept.new[Setting()], kept.zero_shot)
    # Measured as it will be scored.
    student.examples = fewer.with_strength(0.1, WEIGHTS[-1], 1.0)
    right = student.log_odds(states, z_d, trial.gains).argmax(1) == torch.arange(n) % 4
    assert right.float().mean().item() == pytest.approx(measured.all[shared])
