"""The check of a catalogue, against brute force and against `evaluate`."""

from functools import partial

import numpy as np
import pytest

from rabtriever.data import Document, RetrievalData
from rabtriever.evaluation import evaluate
from rabtriever.evaluation.check import ALIKE, DEPTH, REFUSE, check_catalogue
from rabtriever.evaluation.labelled_requests import LabelledRequest
from rabtriever.index import Index
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.refusal import Refusal

WORDS = ("weather", "flight", "recipe", "music", "lamp", "sponge", "hotel", "bread", "song", "table", "wind", "city")
DOCUMENTS = [Document(f"t.{word}", f"find the {word} for me", "", {"name": word}) for word in WORDS]


@pytest.fixture
def retriever(sentence_encoders):
    return Rabtriever(sentence_encoders["bert"])


def requests_of(count):
    texts = [f"please show {word} {other}" for word in WORDS for other in ("rain", "me the city")]
    right = [(f"t.{word}",) for word in WORDS for _ in range(2)]
    return [LabelledRequest(text, ids) for text, ids in zip(texts[:count], right, strict=False)]


def test_recall_is_that_of_evaluate_and_every_miss_is_told(retriever):
    requests = [*requests_of(20), LabelledRequest("show all of them", ("t.song", "t.wind", "t.city"))]
    report = check_catalogue(DOCUMENTS, requests, retriever)
    scores = retriever.similarity(
        retriever.encode_query([request.text for request in requests]),
        retriever.encode_document([document.content for document in DOCUMENTS]),
    )
    order = [[DOCUMENTS[i].id for i in row] for row in np.argsort(-scores, axis=1, kind="stable")]
    for k in (1, 5):
        found = [len({*row[:k]} & {*r.relevant}) / len(r.relevant) for row, r in zip(order, requests, strict=True)]
        assert report[f"R@{k}"] == pytest.approx(np.mean(found))
        low, high = report[f"R@{k}_interval"]
        assert 0 <= low <= report[f"R@{k}"] <= high <= 1
    ids = {str(i): request for i, request in enumerate(requests)}
    qrels = {"test": {i: dict.fromkeys(request.relevant, 1) for i, request in ids.items()}}
    texts = {i: request.text for i, request in ids.items()}
    data = RetrievalData("t", {d.id: d for d in DOCUMENTS}, texts, qrels)
    search = partial(Index.build(None, retriever, DOCUMENTS).search, k=11)
    assert report["R@1"] == pytest.approx(evaluate(data, {"ours": search})["systems"]["ours"]["R@1"])

    missed = {miss["text"]: miss for miss in report["missed"]}
    wrong = {r.text: row for row, r in zip(order, requests, strict=True) if row[0] not in r.relevant}
    assert wrong and missed.keys() == wrong.keys()
    for text, row in wrong.items():
        rank = row.index(missed[text]["best"]) + 1
        assert missed[text]["first"] == row[0] and missed[text]["rank"] == (rank if rank <= DEPTH else None)
        assert all(row.index(other) >= rank - 1 for other in missed[text]["relevant"])
    ranks = [miss["rank"] or DEPTH + 1 for miss in report["missed"]]
    assert ranks == sorted(ranks, reverse=True)
    assert sum(pair["count"] for pair in report["confused"]) == len(wrong)


def test_confused_documents_come_with_the_words_that_tell_them_apart(retriever):
    # The same text twice: the first is found, whatever is asked for the second.
    documents = [Document(name, "find the lamp for me") for name in ("first", "second")]
    requests = [LabelledRequest(f"lamp {word}", ("second",)) for word in ("torch", "torch now")]
    report = check_catalogue(documents, requests, retriever)
    assert report["R@1"] == 0 and report["R@5"] == 1
    (pair,) = report["confused"]
    assert (pair["right"], pair["first"], pair["count"]) == ("second", "first", 2)
    assert pair["asked"] == ["torch", "now"] and pair["only_right"] == pair["only_first"] == []


def test_near_duplicates_that_no_request_tells_apart(retriever):
    twin = Document("twin", DOCUMENTS[0].text + " please", "")
    documents = [*DOCUMENTS, twin, Document("copy", DOCUMENTS[1].text)]
    requests = requests_of(2)  # both of the first document
    report = check_catalogue(documents, requests, retriever)
    embeddings = retriever.encoder.encode_documents([document.content for document in documents])
    similarity = embeddings @ embeddings.T / np.outer(*[np.linalg.norm(embeddings, axis=1)] * 2)
    expected = {
        (documents[i].id, documents[j].id)
        for i in range(len(documents))
        for j in range(i + 1, len(documents))
        if similarity[i, j] >= ALIKE
    }
    assert {tuple(pair["documents"]) for pair in report["alike"]} == expected and report["n_alike"] == len(expected)
    best = report["alike"][0]
    assert best["documents"] == ["t.flight", "copy"] and best["similarity"] == pytest.approx(1, abs=1e-5)
    both = [*requests, LabelledRequest("it", ("t.flight",)), LabelledRequest("it again", ("copy",))]
    told = check_catalogue(documents, both, retriever)["alike"]
    assert ["t.flight", "copy"] not in [pair["documents"] for pair in told]


def test_requests_that_nothing_fits(retriever):
    nothing = [LabelledRequest(f"show {word}", ()) for word in ("snow", "hail")]
    report = check_catalogue(DOCUMENTS, [*requests_of(3), *nothing], retriever)
    assert report["answerable"] == 3 and report["requests"] == 5
    assert report["nothing_fits"]["refused"] is None and len(report["nothing_fits"]["answered"]) == 2

    def refused(log_odds):
        refusing = Rabtriever(retriever.encoder, refusal=Refusal.fit(np.full(100, log_odds)))
        refusing.refusal.limit(REFUSE)
        return check_catalogue(DOCUMENTS, [*requests_of(3), *nothing], refusing)["nothing_fits"]

    assert refused(1e6) == {"requests": 2, "refused": 2, "answered": []}
    assert refused(-1e6) == {**report["nothing_fits"], "refused": 0}


def test_documents_are_encoded_once(retriever, monkeypatch):
    encoded, encode = [], retriever.encoder.encode_documents

    def counting(texts, *args, **options):
        encoded.extend(texts)
        return encode(texts, *args, **options)

    monkeypatch.setattr(retriever.encoder, "encode_documents", counting)
    check_catalogue([*DOCUMENTS, Document("copy", DOCUMENTS[1].text)], requests_of(2), retriever)
    assert sorted(encoded) == sorted(document.content for document in DOCUMENTS)
