import torch

from rabtriever.training import targets as module
from rabtriever.training.targets import Targets

Q, D = torch.arange(3), torch.arange(5)


def similarities(n_queries=3, n_documents=5):
    generator = torch.Generator().manual_seed(0)
    return [
        (weight, *(torch.randn(n, 4, generator=generator) for n in (n_queries, n_documents))) for weight in (30.0, 5.0)
    ]


def read(targets, log_odds):
    """Adds pairs {(query, document): log-odds} that rerankers read."""
    pairs = torch.tensor(list(log_odds)).reshape(-1, 2)
    targets.add(pairs, torch.tensor(list(log_odds.values())), torch.empty(len(pairs), 0))


def test_encoders_alone_give_the_weighted_sum_of_their_similarities():
    parts = similarities()
    expected = sum(weight * q @ d.T for weight, q, d in parts)
    targets = Targets(parts)
    torch.testing.assert_close(targets.lists(Q, D), expected)
    some, others = torch.tensor([2, 0, 2]), torch.tensor([1, 4])
    torch.testing.assert_close(targets.lists(some, others), expected[some][:, others])
    assert not Targets([]).lists(Q, D).any()


def test_what_was_read_is_added_and_what_was_not_gets_the_least_of_its_query():
    targets = Targets(similarities())
    base = targets.lists(Q, D)
    read(targets, {(0, 3): 2.0, (0, 1): -4.0})
    read(targets, {(2, 0): 1.5})
    added = torch.tensor([[-4.0, -4.0, -4.0, 2.0, -4.0], [0.0] * 5, [1.5] * 5])  # of query 1 nothing was read
    torch.testing.assert_close(targets.lists(Q, D), base + added)
    rows, columns = torch.tensor([2, 0, 0]), torch.tensor([0, 2, 4])  # the best document that was read is not there
    torch.testing.assert_close(targets.lists(rows, columns), (base + added)[rows][:, columns])


def test_a_document_that_was_not_read_never_passes_one_that_was_by_the_reranker_alone():
    targets = Targets([])
    read(targets, {(1, 4): -9.0, (1, 2): -7.0})
    assert targets.lists(Q, D)[1].tolist() == [-9.0, -9.0, -7.0, -9.0, -9.0]


def test_added_pairs_keep_their_order_and_states():
    targets = Targets([])
    pairs, states = torch.tensor([[0, 1], [2, 2], [1, 0]]), torch.randn(3, 4)
    targets.add(pairs[:1], torch.tensor([1.0]), states[:1])
    targets.add(pairs[1:], torch.tensor([2.0, 3.0]), states[1:])
    assert torch.equal(targets.pairs, pairs) and torch.equal(targets.states, states)
    assert targets.log_odds.tolist() == [1, 2, 3]


def test_few_documents_are_all_candidates_and_of_many_the_best_those_read_and_a_sample(monkeypatch):
    targets = Targets(similarities(3, 200))
    assert torch.equal(targets.candidates(Q, 200, torch.Generator()), torch.arange(200))
    monkeypatch.setattr(module, "MAX_CANDIDATES", 50)
    monkeypatch.setattr(module, "TOP_DOCUMENTS", 4)
    rows = torch.tensor([0, 2])
    read(targets, {(0, 13): 1.0, (1, 77): 1.0, (2, 99): 0.0})
    best = targets.similarity(rows, torch.arange(200)).topk(4).indices.flatten().tolist()
    seen = set()
    for seed in range(5):
        found = targets.candidates(rows, 200, torch.Generator().manual_seed(seed))
        assert found.dtype == torch.int64 and found.tolist() == sorted(set(found.tolist())) and 40 <= len(found) <= 50
        assert {*best, 13, 99} <= set(found.tolist())
        seen |= set(found.tolist())
    assert len(seen) > 100
    monkeypatch.setattr(module, "TOP_DOCUMENTS", 40)  # more than there is room for: the best are all kept
    best = targets.similarity(rows, torch.arange(200)).topk(40).indices.flatten().tolist()
    assert {*best, 13, 99} <= set(targets.candidates(rows, 200, torch.Generator()).tolist())
