from dataclasses import replace

import pytest

from rabtriever.data import Document
from rabtriever.training.batches import BatchDataset
from rabtriever.training.config import RerankerTrainingConfig

HARD_NEGATIVES = {"weather": ["sponge", "lamp"]}


def dataset(data, hard_negatives=None, **config):
    return BatchDataset(data, RerankerTrainingConfig(**config), hard_negatives or {})


def test_every_query_has_its_positive_and_no_document_occurs_twice(tiny_data):
    batches = dataset(tiny_data, documents_per_step=4, queries_per_step=5, negatives=2)
    for step in range(20):
        batch = batches[step]
        assert batch.positive.shape == (len(batch.queries), 4)
        assert len(batch.queries) == len(set(batch.queries)) <= 5
        assert batch.positive.any(1).all()
        assert (batch.scored.sum(1) == 3).all() and batch.scored[batch.positive].all()
        assert not batch.own.any()
        assert len(set(batch.documents)) == 4
        for row, query in enumerate(batch.queries):
            words = query.split()
            assert [words[2] in document for document in batch.documents] == batch.positive[row].tolist()


def test_the_same_seed_gives_the_same_batches_in_whatever_order_they_are_read(tiny_data):
    first, second, other = (dataset(tiny_data, documents_per_step=4, seed=seed) for seed in (0, 0, 1))
    assert [first[i].queries for i in range(9)] == [second[i].queries for i in (8, 7, 6, 5, 4, 3, 2, 1, 0)][::-1]
    assert [first[i].queries for i in range(9)] != [other[i].queries for i in range(9)]


def test_every_query_has_its_turn_in_an_epoch(tiny_data):
    batches = dataset(tiny_data, documents_per_step=2, queries_per_step=2)
    train = tiny_data.labelled_queries("train")
    seen = {query for step in range(len(train) // 2) for query in batches[step].queries}
    assert len(seen) > len(train) // 2 and seen <= set(train.values())


def test_hard_negatives_are_in_the_batch_of_their_document(tiny_data):
    batches = dataset(tiny_data, HARD_NEGATIVES, documents_per_step=3, hard_negative_share=1.0)
    documents = [batches[step].documents for step in range(30)]
    both = [some for some in documents if any("sponge" in d for d in some) and any("lamp" in d for d in some)]
    assert len(both) >= 30 / 6  # each time that a weather query comes first


def test_a_small_corpus_is_taken_whole(tiny_data):
    assert len(dataset(tiny_data, documents_per_step=50)[0].documents) == 6


def test_a_query_is_scored_with_the_hardest_documents_of_the_batch(tiny_data):
    batches = dataset(tiny_data, HARD_NEGATIVES, documents_per_step=6, hard_negative_share=1.0, negatives=2)
    contents = {tiny_data.documents[document].content for document in ("sponge", "lamp")}
    for step in range(10):
        batch = batches[step]
        for query, positive, scored in zip(batch.queries, batch.positive, batch.scored, strict=True):
            if "weather" in query:
                assert {batch.documents[i] for i in (scored & ~positive).nonzero().flatten().tolist()} == contents


@pytest.mark.parametrize("hard_negative_share", [0.0, 1.0])
def test_a_querys_own_document_is_never_its_negative(tiny_data, hard_negative_share):
    own = {query: Document(query, text) for query, text in tiny_data.queries.items()}
    data = replace(tiny_data, documents={**tiny_data.documents, **own})
    hard = {topic: [query for query in own if topic in own[query].text] for topic in tiny_data.documents}
    batches = dataset(
        data, hard, documents_per_step=18, queries_per_step=18, negatives=17, hard_negative_share=hard_negative_share
    )
    batch = batches[0]
    assert batch.own.sum(1).tolist() == [1] * len(batch.queries) and not (batch.scored & batch.own).any()
    assert (batch.scored | batch.own).all()
    for query, own_document in zip(batch.queries, batch.own, strict=True):
        assert batch.documents[int(own_document.nonzero())] == query


def test_only_train_queries_are_used(tiny_data):
    train = set(tiny_data.labelled_queries("train").values())
    batches = dataset(tiny_data, documents_per_step=6, queries_per_step=50)
    assert {query for step in range(10) for query in batches[step].queries} == train
