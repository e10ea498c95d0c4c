"""What is said to each kind of server and what its answer means: pure functions, no network.

Every answer becomes log-odds:

- ``cohere``, ``jina``, ``voyage``: a relevance score in [0, 1] is taken as a probability, its logit clipped to +-16.
- ``tei``: raw scores are asked for, the model's logit before its sigmoid, which are log-odds.
- ``vllm-score``: a cross-encoder's score is its sigmoid, so as for ``cohere``. (An embedding model's is a cosine.)
- ``vllm-generate``: the score is P(Yes) / (P(Yes) + P(No)), whose logit is the difference of the two logits.
- ``chat``: log P(Yes) - log P(No) among the most probable first tokens of the answer; a choice that is not listed is
  at most as probable as the least that is, and counts as that.

With ``raw_scores`` the scores of ``cohere``, ``jina``, ``voyage`` and ``vllm-score`` are log-odds as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rabtriever.errors import RemoteError, first_line
from rabtriever.rerankers.remote.prompts import NO, YES, ChatPrompt, ServerPrompt

MAX_LOGIT = 16.0  # float32's sigmoid is 1 beyond
TOP_LOGPROBS = 20  # the most that servers give
MIN_LOGPROB = -30.0  # some servers write -9999 for "impossible"

Prompt = ChatPrompt | ServerPrompt


class Answer(NamedTuple):
    """What a server said about n documents.

    Attributes:
        scores: n numbers, in the order of the documents.
        masses: n probabilities that the answer is one of the choices, or None if the protocol does not tell.
    """

    scores: list[float]
    masses: list[float] | None = None


@dataclass(frozen=True)
class RemoteProtocol:
    """One way to ask for scores.

    Attributes:
        path: Its usual endpoint.
        request: (model, query, documents, prompt) -> the body.
        read: (decoded answer, number of documents) -> the scores as they are given, one a document.
        gives: ``log-odds``, ``probability``, or ``either``, which the option ``raw_scores`` decides.
        needs_model: Whether a request must name a model.
        prompt: ``chat`` for a chat model that is told what to do in messages, ``server`` for one that is told in the
            server's own template; empty for others.
        max_documents: The most it takes in a request; None if that is the server's setting.
    """

    path: str
    request: Callable[[str, str, Sequence[str], Any], dict[str, Any]]
    read: Callable[[Any, int], Answer]
    gives: str = "either"
    needs_model: bool = True
    prompt: str = ""
    max_documents: int | None = None


def read_answer(protocol: RemoteProtocol, answer: Any, n: int, *, raw_scores: bool) -> Answer:  # noqa: ANN401
    """Returns what a decoded JSON answer says about ``n`` documents.

    Raises:
        RemoteError: another shape than the protocol's, another number of scores, or one that is no number.
    """
    try:
        scores, masses = protocol.read(answer, n)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise RemoteError(f"an answer of another shape ({first_line(error)}); check the protocol and the URL") from None
    raw = raw_scores if protocol.gives == "either" else protocol.gives == "log-odds"
    return Answer(scores if raw else [logit(score) for score in scores], masses)


def logit(probability: float) -> float:
    """Returns the log-odds of a probability, clipped to +-16; raises RemoteError for what is none."""
    if not 0 <= probability <= 1:
        raise RemoteError(f"a score of {probability:g} is no probability; if scores are log-odds, set raw_scores")
    if probability in (0, 1):
        return math.copysign(MAX_LOGIT, probability - 0.5)
    return min(max(math.log(probability) - math.log1p(-probability), -MAX_LOGIT), MAX_LOGIT)


def choice_log_odds(listed: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Returns log P(yes) - log P(no) and P(yes) + P(no) from the most probable tokens.

    Args:
        listed: ``{"token": text, "logprob": number}`` each; spellings of a choice (case, spaces around it) add up.

    Raises:
        ValueError: nothing is listed, or a number is none.
    """
    tokens = [(str(item["token"]).strip().lower(), max(_number(item["logprob"]), MIN_LOGPROB)) for item in listed]
    least = min(logprob for _, logprob in tokens)
    found = [[logprob for token, logprob in tokens if token == choice.lower()] for choice in (YES, NO)]
    yes, no = (
        max(logprobs) + math.log(sum(math.exp(x - max(logprobs)) for x in logprobs)) if logprobs else least
        for logprobs in found
    )
    return yes - no, min(sum(math.exp(logprob) for logprobs in found for logprob in logprobs), 1.0)


def used_tokens(answer: Any) -> int | None:  # noqa: ANN401
    """Returns how many tokens the server says it read and wrote; None if it does not say."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return total if type(total) is int and 0 <= total < 1 << 40 else None


def _rerank(model: str, query: str, documents: Sequence[str], _: None) -> dict[str, Any]:
    return {"model": model, "query": query, "documents": list(documents)}


def _jina(model: str, query: str, documents: Sequence[str], _: None) -> dict[str, Any]:
    return {"model": model, "query": query, "documents": list(documents), "return_documents": False}


def _tei(model: str, query: str, documents: Sequence[str], _: None) -> dict[str, Any]:
    return {"query": query, "texts": list(documents), "raw_scores": True, "truncate": True}


def _vllm_score(model: str, query: str, documents: Sequence[str], _: None) -> dict[str, Any]:
    return {"model": model, "text_1": query, "text_2": list(documents)}


def _vllm_generate(model: str, query: str, documents: Sequence[str], prompt: ServerPrompt) -> dict[str, Any]:
    # The document comes first, as in our own prompts; the texts hold the chat template's special tokens.
    return {
        "model": model,
        "query": prompt.query.replace("{query}", query),
        "items": [prompt.document.replace("{document}", document) for document in documents],
        "item_first": True,
        "label_token_ids": list(prompt.choice_ids),
        "add_special_tokens": False,
    }


def _chat(model: str, query: str, documents: Sequence[str], prompt: ChatPrompt) -> dict[str, Any]:
    (document,) = documents
    asked = {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
    return {"model": model, "messages": prompt.messages(query, document), **asked}


def _in_order(rows: Any, n: int, name: str) -> list[float]:  # noqa: ANN401
    """Returns the scores of rows in the order of their ``index``; raises ValueError unless each stands there once."""
    by_index = {row["index"]: _number(row[name]) for row in rows}
    if len(rows) != n or set(by_index) != set(range(n)):
        raise ValueError(f"{len(rows)} scores for {n} documents, or not one for each")
    return [by_index[i] for i in range(n)]


def _number(value: Any) -> float:  # noqa: ANN401
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"a score of {value!r}")
    return float(value)


def _scores(rows: str | None, name: str) -> Callable[[Any, int], Answer]:
    """Returns a reader of rows, which stand under a name or are the answer, whose score has a name."""
    return lambda answer, n: Answer(_in_order(answer if rows is None else answer[rows], n, name))


def _first_token(answer: Any, _: int) -> Answer:  # noqa: ANN401
    log_odds, mass = choice_log_odds(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"])
    return Answer([log_odds], [mass])


PROTOCOLS = {
    "cohere": RemoteProtocol("/v2/rerank", _rerank, _scores("results", "relevance_score")),
    "jina": RemoteProtocol("/v1/rerank", _jina, _scores("results", "relevance_score")),
    "voyage": RemoteProtocol("/v1/rerank", _rerank, _scores("data", "relevance_score")),
    "tei": RemoteProtocol("/rerank", _tei, _scores(None, "score"), "log-odds", needs_model=False),
    "vllm-score": RemoteProtocol("/score", _vllm_score, _scores("data", "score")),
    "vllm-generate": RemoteProtocol(
        "/generative_scoring", _vllm_generate, _scores("data", "score"), "probability", prompt="server"
    ),
    "chat": RemoteProtocol("/v1/chat/completions", _chat, _first_token, "log-odds", prompt="chat", max_documents=1),
}
