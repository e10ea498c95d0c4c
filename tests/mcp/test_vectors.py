import logging

import numpy as np
import pytest

from rabtriever.data import Document
from rabtriever.errors import InputError
from rabtriever.index import Index
from rabtriever.index.hits import Hit
from rabtriever.mcp.vectors import DOUBTFUL, DOUBTFUL_IN_LIST, Vectors, fitting
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.calibration import Calibration
from rabtriever.scoring.refusal import Refusal

TOOLS = {"a.weather": "rain and wind", "a.music": "play a song", "b.lamp": "turn the light on", "b.cook": "a recipe"}


@pytest.fixture
def encoded(sentence_encoders, monkeypatch):
    """The texts of documents that the encoder reads, in its order."""
    texts = []
    encode = sentence_encoders["bert"].encode_documents

    def noted(batch, *args):
        texts.extend(batch)
        return encode(batch, *args)

    monkeypatch.setattr(sentence_encoders["bert"], "encode_documents", noted)
    return texts


@pytest.fixture
def opened(sentence_encoders, tmp_path):
    """Opens the vectors of a state folder, as each start of a gateway does."""

    def open_(**options):
        vectors = Vectors(tmp_path / "state", lambda: Rabtriever(sentence_encoders["bert"]), **options)
        vectors.open()
        return vectors

    return open_


def ids(hits):
    return [hit.id for hit in hits]


def test_the_order_is_the_retrievers_own(opened, make_tools, sentence_encoders):
    vectors, tools = opened(), make_tools(TOOLS)
    assert vectors.missing(tools) == tools.keys() and vectors.sync(tools) == 4 and not vectors.missing(tools)
    own = Index.build(None, Rabtriever(sentence_encoders["bert"]), [tool.document for tool in tools.values()])
    for request in ("it is dark", "please play music", "what rain"):
        hits, fits = vectors.search(request, tools, 4)
        assert hits == [hit for hit in own.search(request, 4)] and fits is None


def test_only_what_changed_is_encoded_also_by_the_next_start(opened, make_tools, encoded):
    vectors, tools = opened(), make_tools(TOOLS)
    vectors.sync(tools)
    assert len(encoded) == 4
    other = make_tools({**TOOLS, "b.lamp": "switch the lamp off", "c.new": "find a hotel"} | {})
    del other["a.music"]
    assert vectors.missing(other) == {"b.lamp", "c.new"}
    again = opened()
    assert again.sync(other) == 2 and encoded[4:] == [other["b.lamp"].document.content, other["c.new"].document.content]
    assert opened().sync(other) == 0 and len(encoded) == 6
    assert sorted(again.index.ids()) == sorted(other)


def test_nothing_is_shown_that_is_not_asked_for(opened, make_tools):
    vectors, tools = opened(), make_tools(TOOLS)
    vectors.sync(tools)
    fewer = make_tools({"b.cook": TOOLS["b.cook"], "b.lamp": "another text"})  # of which no vector is there
    for request in ("it is dark", "play a song", "rain and wind"):
        assert ids(vectors.search(request, fewer, 1)[0]) == ["b.cook"]


def test_a_text_that_cannot_be_encoded_keeps_no_other_out(opened, make_tools, monkeypatch, caplog):
    vectors, tools = opened(), make_tools(TOOLS)
    upsert = vectors.index.upsert

    def picky(documents):
        if any("song" in document.text for document in documents):
            raise InputError("no song")
        upsert(documents)

    monkeypatch.setattr(vectors.index, "upsert", picky)
    vectors.sync(tools)
    assert vectors.missing(tools) == {"a.music"} and "a.music has no vector" in caplog.text
    caplog.clear()
    assert vectors.sync(make_tools(TOOLS)) == 0 and not caplog.text  # it is not tried again
    assert vectors.sync(make_tools({**TOOLS, "a.music": "play music"})) == 1  # until it has another text


def test_a_reranker_that_fails_is_left_out(opened, make_tools, caplog):
    tools, plain = make_tools(TOOLS), opened()
    plain.sync(tools)
    with caplog.at_level(logging.WARNING, "rabtriever.mcp"):  # an encoder has none
        assert opened(rerank=2).search("it is dark", tools, 4) == plain.search("it is dark", tools, 4)
    assert "the reranker failed" in caplog.text


def test_a_second_gateway_shares_the_index(opened, make_tools):
    first, second, tools = opened(), opened(), make_tools(TOOLS)
    first.sync(tools)
    assert second.missing(tools) == tools.keys()  # it does not know yet
    second.sync(tools)
    assert ids(second.search("dark", tools, 4)[0]) == ids(first.search("dark", tools, 4)[0])
    first.sync(make_tools({"a.weather": TOOLS["a.weather"]}))
    second.sync(make_tools({"a.weather": TOOLS["a.weather"]}))
    assert second.index.ids() == ["a.weather"]


def test_a_gateway_with_another_file_takes_nothing_away_for_good(opened, make_tools):
    first, tools = opened(), make_tools(TOOLS)
    first.sync(tools)
    assert not first.follow()
    second, fewer = opened(), make_tools({"a.weather": TOOLS["a.weather"]})
    second.sync(fewer)  # its first sync removes what its file does not have
    assert first.follow() and first.missing(tools) == tools.keys() - fewer.keys()  # found by words meanwhile
    first.sync(tools)
    assert not second.follow() and second.sync(fewer) == 0  # which it leaves to the first
    assert not first.follow() and not first.missing(tools)


def test_whether_anything_fits(sentence_encoders):
    encoder = sentence_encoders["bert"]
    assert fitting(Rabtriever(encoder), 0.05) is None  # nothing is calibrated, nothing promised

    def hit(log_odds, probability):
        return Hit("a", probability, log_odds, "", {})

    calibration = Calibration(2.0, -1.0)
    fits = fitting(Rabtriever(encoder, calibration=calibration), 0.05)
    least = calibration.temperature * (np.log(DOUBTFUL / (1 - DOUBTFUL)) - calibration.offset)
    assert calibration.probability(least) == pytest.approx(DOUBTFUL)
    assert fits(hit(least + 0.01, 0)) and not fits(hit(least - 0.01, DOUBTFUL_IN_LIST - 0.01))
    assert fits(hit(least - 0.01, DOUBTFUL_IN_LIST))
    promised = fitting(Rabtriever(encoder, calibration=calibration, refusal=Refusal(100, {0.05: 0.25})), 0.05)
    assert promised(hit(0.25, 0)) and not promised(hit(0.24, 1))


def test_a_promise_decides_what_fits(make_tools, sentence_encoders, tmp_path):
    tools, fits = make_tools(TOOLS), {}
    for name, limit in (("low", -100.0), ("high", 100.0)):
        retriever = Rabtriever(sentence_encoders["bert"], refusal=Refusal(100, {0.05: limit}))
        vectors = Vectors(tmp_path / name, lambda retriever=retriever: retriever)
        vectors.open()
        vectors.sync(tools)
        hits, fits[name] = vectors.search("it is dark", tools, 4)
        assert len(hits) == 4
    assert fits == {"low": True, "high": False}


def test_ids_of_an_index_in_the_order_of_insertion(retriever):
    index = Index.build(None, retriever, [Document(name, "find the lamp") for name in "cab"])
    index.upsert([Document("a", "the lamp")])
    assert index.ids() == ["c", "b", "a"]
