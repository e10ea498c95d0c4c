from dataclasses import replace

import pytest
import torch

from rabtriever.data import Document
from rabtriever.llm.backbone import Backbone
from rabtriever.llm.prompt import Prompt
from rabtriever.training import hard_negatives as module
from rabtriever.training.encoded_data import EncodedQueries
from rabtriever.training.hard_negatives import fit_predictor, mine_hard_negatives


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, "STEPS", 40)


def mine(data, reranker, **options):
    return mine_hard_negatives(data, reranker.llm, **options)


def one_query_a_topic(data):
    """The data with a document for each query that is the query itself."""
    own = {query: Document(query, text) for query, text in data.queries.items()}
    train = {query: data.qrels["train"][query] for query in list(data.queries)[:6]}
    return replace(data, documents={**data.documents, **own}, qrels={"train": train})


def test_each_document_of_a_train_query_gets_others(tiny_data, reranker):
    mined = mine(tiny_data, reranker)
    assert set(mined.by_document) == set(tiny_data.documents)
    for document, negatives in mined.by_document.items():
        assert document not in negatives and set(negatives) <= set(tiny_data.documents)
    assert 0 <= mined.recall <= 1
    torch.testing.assert_close(mined.student.choice_direction, reranker.llm.choice_direction)


def test_the_same_seed_finds_the_same(tiny_data, reranker):
    first, second = mine(tiny_data, reranker), mine(tiny_data, reranker)
    assert first.by_document == second.by_document and first.recall == second.recall


def test_a_querys_own_document_is_never_its_negative(tiny_data, reranker):
    data = one_query_a_topic(tiny_data)
    mined = mine(data, reranker)
    for query, grades in data.qrels["train"].items():
        (document,) = grades
        negatives = mined.by_document[document]
        assert query not in negatives and len(negatives) == len(data.documents) - 2  # all but the positive and its own


def test_own_documents_are_not_taught_as_wrong_either(tiny_data, reranker):
    prompt, backbone = reranker.llm.prompt, reranker.llm.backbone
    texts = list(tiny_data.queries.values())[:6]
    documents = [document.content for document in tiny_data.documents.values()]
    z_q = backbone.states(prompt.query_ids(texts, with_bos=True), "mean").clone()
    z_d = backbone.states(prompt.document_ids([*documents, *texts]), "mean").clone()
    labels, own = [[i] for i in range(6)], torch.arange(6, 12)

    def own_share(own_documents):
        queries = EncodedQueries(texts, z_q, labels, own_documents)
        log_odds = fit_predictor(queries, z_d, reranker.llm.choice_direction, 100, 0).log_odds(z_q, z_d)
        return log_odds.softmax(1)[torch.arange(6), torch.arange(6, 12)].mean()

    assert own_share(own) > own_share(torch.full((6,), -1))


def test_only_the_train_split_and_no_more_of_it_than_asked_for_is_tokenised(tiny_data, reranker, monkeypatch):
    texts = []
    query_ids = Prompt.query_ids
    monkeypatch.setattr(
        Prompt, "query_ids", lambda self, some, **options: texts.extend(some) or query_ids(self, some, **options)
    )
    mine(tiny_data, reranker, max_queries=4)
    assert len(texts) == 4 and set(texts) <= set(tiny_data.labelled_queries("train").values())


def test_of_a_large_corpus_the_relevant_documents_and_a_sample_are_encoded(tiny_data, reranker, monkeypatch):
    more = {f"d{i}": Document(f"d{i}", f"play music {i}") for i in range(50)}
    data = replace(tiny_data, documents={**more, **tiny_data.documents})
    monkeypatch.setattr(module, "MAX_DOCUMENTS", 10)
    encoded = []
    states = Backbone.states
    monkeypatch.setattr(
        Backbone, "states", lambda self, ids, *options: encoded.append(len(ids)) or states(self, ids, *options)
    )
    mined = mine(data, reranker)
    assert encoded == [8, 10]
    found = {document for negatives in mined.by_document.values() for document in negatives}
    assert set(mined.by_document) == set(tiny_data.documents) and len(found) == 10


def test_a_single_query_gives_nothing(tiny_data, reranker):
    data = replace(tiny_data, qrels={"train": {"q0": {"weather": 1}}})
    assert mine(data, reranker) == ({}, None, None)
