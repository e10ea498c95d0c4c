import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from stub_teacher import DOCUMENTS, KEY, PATHS, QUERIES, log_odds_of, top_logprobs

from rabtriever.errors import InputError, RemoteError, TextError
from rabtriever.rerankers.remote.reranker import RemoteReranker, notice

PAIRS = np.array([[0, 0], [0, 1], [0, 2], [1, 2], [1, 0], [0, 1]])
EXPECTED = [log_odds_of(QUERIES[q], DOCUMENTS[d]) for q, d in PAIRS.tolist()]
SOURCE = Path(__file__).parents[3] / "src"


def score(reranker, pairs=PAIRS):
    return reranker.score(QUERIES, DOCUMENTS, pairs).log_odds


@pytest.mark.parametrize("protocol", PATHS)
def test_every_protocol_gives_the_same_log_odds(protocol, stub):
    reranker = RemoteReranker.from_source(stub.source(protocol))
    result = reranker.score(QUERIES, DOCUMENTS, PAIRS)
    np.testing.assert_allclose(result.log_odds, EXPECTED, atol=1e-5)
    assert result.log_odds.dtype == np.float32 and result.states is None
    assert set(stub.pairs.values()) == {1}, "an equal pair was asked about twice"
    assert reranker.mass == (pytest.approx(0.9) if protocol == "chat" else None)


def test_one_request_holds_the_documents_of_one_query(stub):
    score(RemoteReranker.from_source(stub.source("cohere")))
    assert sorted(len(body["documents"]) for _, _, body in stub.requests) == [2, 3]
    score(RemoteReranker.from_source(stub.source("jina"), documents_per_request=2))
    assert sorted(len(body["documents"]) for path, _, body in stub.requests if path == PATHS["jina"]) == [1, 2, 2]
    score(RemoteReranker.from_source(stub.source("chat")))
    assert len([path for path, _, _ in stub.requests if path == PATHS["chat"]]) == 5


def test_no_pairs_no_request(stub, tei):
    assert score(tei, np.empty((0, 2))).shape == (0,) and not stub.requests


def test_requests_run_side_by_side_up_to_the_limit(stub):
    stub.delay = 0.05
    texts = [f"text {i}" for i in range(8)]
    reranker = RemoteReranker.from_source(stub.source("chat"), concurrency=3)
    reranker.score(["q"], texts, np.array([[0, i] for i in range(8)]))
    assert stub.at_once == 3


def test_answers_are_cached_on_disk(stub):
    for asked, cached in ((5, 0), (0, 5)):
        reranker = RemoteReranker.from_source(stub.source("chat"))
        np.testing.assert_allclose(score(reranker), EXPECTED, atol=1e-5)
        assert (reranker.calls, reranker.cached) == (asked, cached)
        assert reranker.mass == pytest.approx(0.9)


def test_what_changes_a_score_changes_the_fingerprint(stub):
    made = [
        RemoteReranker.from_source(name, **options).fingerprint
        for name, options in (
            (stub.source("chat"), {}),
            (stub.source("chat") + "2", {}),
            (stub.source("chat"), {"task": "Match tools."}),
            (stub.source("chat"), {"document_name": "Tool"}),
            (stub.source("jina"), {}),
            (stub.source("jina"), {"raw_scores": True}),
            (stub.source("cohere"), {}),
        )
    ]
    assert len(set(made)) == len(made)
    same = RemoteReranker.from_source(stub.source("chat"), concurrency=1, price_per_1000_requests=2.0)
    assert same.fingerprint == made[0]


def test_an_error_keeps_what_was_in_flight_and_asks_no_further(stub):
    stub.delay = 0.05
    stub.replies = [(401, {}, {"error": {"message": "no such key"}})]
    reranker = RemoteReranker.from_source(stub.source("chat"), concurrency=2)
    texts = [f"text {i}" for i in range(20)]
    pairs = np.array([[0, i] for i in range(20)])
    with pytest.raises(RemoteError, match="no such key"):
        reranker.score(["q"], texts, pairs)
    assert len(stub.requests) <= 3
    assert sum(stub.pairs.values()) == len(stub.requests) - 1
    reranker.score(["q"], texts, pairs)
    assert set(stub.pairs.values()) == {1}


def test_a_killed_run_pays_twice_at_most_what_was_in_flight(stub):
    stub.delay = 0.004
    program = (
        "import sys, numpy as np\n"
        "from rabtriever.rerankers.remote.reranker import RemoteReranker\n"
        "reranker = RemoteReranker.from_source(sys.argv[1], concurrency=4)\n"
        "reranker.score(['q'], [f'text {i}' for i in range(1000)], np.array([[0, i] for i in range(1000)]))\n"
        "print(reranker.calls, reranker.cached)\n"
    )
    command = [sys.executable, "-c", program, stub.source("chat")]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    process = subprocess.Popen(command, env=environment)
    while sum(stub.pairs.values()) < 300:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.1)  # what was in flight is answered, to nobody
    paid = sum(stub.pairs.values())
    assert 300 <= paid < 1000
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    calls, cached = map(int, output.split())
    assert calls + cached == 1000 and len(stub.pairs) == 1000
    assert sum(stub.pairs.values()) - 1000 == paid - cached <= 4


def test_the_cap_stops_before_it_is_passed(stub):
    options = {"price_per_1000_requests": 1000.0, "max_cost": 3.5, "concurrency": 2}
    reranker = RemoteReranker.from_source(stub.source("chat"), **options)
    with pytest.raises(InputError, match="max_cost 3.5: the next request could pass it, 3 are spent") as raised:
        score(reranker)
    assert raised.value.param == "max_cost"
    assert reranker.cost == len(stub.requests) == 3
    again = RemoteReranker.from_source(stub.source("chat"), **options)
    np.testing.assert_allclose(score(again), EXPECTED, atol=1e-5)
    assert (again.cost, again.cached) == (2, 3)


def test_tokens_are_counted_or_estimated(stub):
    reranker = RemoteReranker.from_source(stub.source("cohere"), price_per_million_tokens=1e6)
    score(reranker)
    assert reranker.cost == pytest.approx(50) and not reranker.cost_is_estimated
    stub.usage = False
    reranker = RemoteReranker.from_source(stub.source("jina"), price_per_million_tokens=1e6)
    score(reranker)
    assert reranker.cost > 50 and reranker.cost_is_estimated


def test_a_model_that_does_not_choose_is_an_error_that_asks_no_further(stub):
    texts = [f"text {i}" for i in range(60)]
    pairs = np.array([[0, i] for i in range(60)])
    said = {"choices": [{"logprobs": {"content": [{"top_logprobs": top_logprobs(0.0, mass=0.1)}]}}]}
    stub.replies = [(200, {}, said)] * 60
    for _ in range(2):  # the second time from the cache
        with pytest.raises(RemoteError, match="only 10% of the answers' probability is on Yes or No; set another task"):
            RemoteReranker.from_source(stub.source("chat")).score(["q"], texts, pairs)
        assert 20 <= len(stub.requests) <= 24


def test_the_servers_template_is_fetched_once(stub):
    reranker = RemoteReranker.from_source(stub.source("vllm-generate"), task="Match tools.")
    for text in ("one", "two"):
        reranker.score([text], DOCUMENTS, np.array([[0, 0]]))
    paths = [path for path, _, _ in stub.requests]
    assert paths == ["/tokenize", "/detokenize", "/tokenize", "/tokenize"] + [PATHS["vllm-generate"]] * 2
    sent = stub.requests[-1][2]
    assert sent["items"][0].startswith("<system>Match tools. Answer only yes or no.<user>Document: ")
    assert sent["query"].endswith("for the query?<assistant>") and sent["label_token_ids"] == [ord("Y"), ord("N")]


def test_states_are_refused(tei):
    with pytest.raises(InputError, match="a remote teacher has no states"):
        tei.score(QUERIES, DOCUMENTS, PAIRS, with_states=True)


@pytest.mark.parametrize("text", ["", " \n", None, "half \ud800"])
def test_a_text_that_cannot_be_sent_is_named(text, stub, tei):
    with pytest.raises(TextError, match="document 1: ") as raised:
        tei.score(["q"], ["good", text, ""], np.array([[0, 0], [0, 1]]))
    assert raised.value.position == 1 and not stub.requests


def test_the_key_is_sent_and_never_shown(stub, monkeypatch):
    monkeypatch.setenv("RABTRIEVER_TEACHER_KEY", f" {KEY}\n")
    monkeypatch.setenv("OTHER_KEY", "other-key")
    reranker = RemoteReranker.from_source(stub.source("tei"))
    score(reranker)
    assert stub.requests[0][1]["Authorization"] == f"Bearer {KEY}"
    stub.replies = [(401, {}, {"error": {"message": f"no such key {KEY}"}})]
    other = RemoteReranker.from_source(stub.source("jina"))
    with pytest.raises(
        RemoteError, match=r"HTTP 401 \(no such key \*\*\*\); set the API key in \$RABTRIEVER"
    ) as raised:
        score(other)
    assert KEY not in str(raised.value) + repr(vars(other)) + repr(vars(other._transport))
    score(RemoteReranker.from_source(stub.source("voyage"), key_variable="OTHER_KEY"))
    assert stub.requests[-1][1]["Authorization"] == "Bearer other-key"


def test_a_key_of_other_characters_is_refused_and_not_shown(stub, monkeypatch):
    monkeypatch.setenv("RABTRIEVER_TEACHER_KEY", "hidden\u00fc")
    with pytest.raises(InputError, match="RABTRIEVER_TEACHER_KEY: holds no API key") as raised:
        score(RemoteReranker.from_source(stub.source("tei")))
    assert "hidden" not in str(raised.value) and not stub.requests


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "concurrency 0: must be a number of at least 1"),
        ({"timeout": float("nan")}, "timeout nan"),
        ({"requests_per_minute": 0}, "requests_per_minute 0"),
        ({"price_per_1000_requests": -1}, "price_per_1000_requests -1"),
        ({"max_cost": 1.0}, "nothing has a price"),
        ({"task": " "}, "task: must not be empty"),
        ({"device": "cpu"}, "device: no option of remote teachers; those are key_variable, "),
    ],
)
def test_a_wrong_option_is_one_line(options, message):
    with pytest.raises(InputError, match=message) as raised:
        RemoteReranker.from_source("tei+http://127.0.0.1/rerank", **options)
    assert raised.value.param == next(iter(options))


def test_the_notice_is_said_once(capsys):
    notice.cache_clear()
    notice()
    notice()
    output = capsys.readouterr()
    assert output.err.count("terms forbid training") == 1 and not output.out
