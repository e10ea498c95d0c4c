import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rabtriever.errors import RemoteError
from rabtriever.rerankers.remote.prompts import ChatPrompt, ServerPrompt
from rabtriever.rerankers.remote.protocols import PROTOCOLS, choice_log_odds, logit, read_answer, used_tokens

CHAT = ChatPrompt("Judge.", "Tool", "Request")


def row(index, score, name="relevance_score"):
    return {"index": index, name: score}


@given(st.floats(-15, 15))
def test_a_probability_becomes_its_log_odds(log_odds):
    assert logit(1 / (1 + math.exp(-log_odds))) == pytest.approx(log_odds, abs=1e-6)


def test_certain_scores_are_clipped():
    assert [logit(p) for p in (0, 1e-12, 1)] == [-16, -16, 16]


@pytest.mark.parametrize("protocol", ["cohere", "jina", "voyage", "tei", "vllm-score", "vllm-generate"])
def test_scores_come_in_any_order(protocol):
    made = PROTOCOLS[protocol]
    name = "relevance_score" if protocol in ("cohere", "jina", "voyage") else "score"
    rows = [row(2, 0.9, name), row(0, 0.5, name), row(1, 0.1, name)]
    answer = {"cohere": {"results": rows}, "jina": {"results": rows}, "tei": rows}.get(protocol, {"data": rows})
    expected = [0.5, 0.1, 0.9] if protocol == "tei" else [logit(0.5), logit(0.1), logit(0.9)]
    assert read_answer(made, answer, 3, raw_scores=False).scores == expected


def test_raw_scores_are_taken_as_they_are():
    answer = {"results": [row(0, -3.5)]}
    assert read_answer(PROTOCOLS["jina"], answer, 1, raw_scores=True).scores == [-3.5]
    with pytest.raises(RemoteError, match="-3.5 is no probability; if scores are log-odds, set raw_scores"):
        read_answer(PROTOCOLS["jina"], answer, 1, raw_scores=False)


@pytest.mark.parametrize(
    "answer",
    [
        {"results": [row(0, 0.5)]},  # too few
        {"results": [row(0, 0.5), row(1, 0.5), row(2, 0.5)]},
        {"results": [row(0, 0.5), row(0, 0.5)]},
        {"results": [row(0, 0.5), row(2, 0.5)]},
        {"results": [row(0, 0.5), row(1, math.nan)]},
        {"results": [row(0, 0.5), row(1, None)]},
        {"results": [row(0, 0.5), row(1, "0.5")]},
        {"results": [row(0, 0.5), row(1, True)]},
        {"results": [row(0, 0.5), {"index": 1}]},
        {"results": [row(0, 0.5), row([1], 0.5)]},
        {"results": None},
        {"data": []},
        [],
        "text",
        None,
    ],
)
def test_an_answer_of_another_shape_is_one_line(answer):
    with pytest.raises(RemoteError, match="an answer of another shape") as raised:
        read_answer(PROTOCOLS["cohere"], answer, 2, raw_scores=False)
    assert "\n" not in str(raised.value)


def test_spellings_of_a_choice_add_up():
    listed = [("Yes", 0.3), (" yes", 0.2), ("No", 0.1), ("no", 0.15), ("Well", 0.05)]
    log_odds, mass = choice_log_odds([{"token": t, "logprob": math.log(p)} for t, p in listed])
    assert log_odds == pytest.approx(math.log(0.5 / 0.25)) and mass == pytest.approx(0.75)


def test_a_choice_that_is_not_listed_counts_as_the_least_that_is():
    listed = [{"token": "Yes", "logprob": -0.01}, {"token": "Well", "logprob": -7.0}]
    assert choice_log_odds(listed)[0] == pytest.approx(6.99)
    assert choice_log_odds([{"token": "<think>", "logprob": 0.0}]) == (0.0, 0.0)


@pytest.mark.parametrize("content", [[], [{"top_logprobs": []}], [{"top_logprobs": [{"token": "Yes"}]}], None])
def test_a_chat_answer_without_logprobs_is_one_line(content):
    answer = {"choices": [{"logprobs": {"content": content}}]}
    with pytest.raises(RemoteError, match="an answer of another shape"):
        read_answer(PROTOCOLS["chat"], answer, 1, raw_scores=False)


@pytest.mark.parametrize("answer", [[], None, {}, {"usage": None}, {"usage": {"total_tokens": "7"}}])
def test_tokens_may_be_unknown(answer):
    assert used_tokens(answer) is None and used_tokens({"usage": {"total_tokens": 7}}) == 7


def test_the_words_of_the_prompt_are_settings():
    system, user = CHAT.messages("Q", "D")
    assert system["content"] == "Judge. Answer only yes or no."
    assert user["content"] == "Tool: D\nRequest: Q\nIs this tool the right one for the request?"


def test_a_server_that_changes_the_message_is_refused():
    def ask(path, body):
        return {"tokens": [1]} if path == "tokenize" else {"prompt": "the template has lost the texts"}

    with pytest.raises(RemoteError, match="try the protocol chat"):
        ServerPrompt.fetch(CHAT, ask)


def test_choices_of_several_tokens_are_refused():
    with pytest.raises(RemoteError, match="no single token for Yes and No"):
        ServerPrompt.fetch(CHAT, lambda path, body: {"tokens": [1, 2], "prompt": "x"})


def test_what_a_server_refuses_is_told_as_it_is():
    def ask(path, body):
        raise RemoteError("HTTP 404 (no model 'tiny')")

    with pytest.raises(RemoteError, match="^HTTP 404"):
        ServerPrompt.fetch(CHAT, ask)


def test_impossible_tokens_do_not_make_endless_log_odds():
    assert choice_log_odds([{"token": "Yes", "logprob": 0.0}, {"token": "No", "logprob": -9999.0}])[0] == 30
