"""A teacher behind HTTP."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import fields
from functools import cache
from pathlib import Path
from threading import Event, Lock
from typing import Any, NamedTuple
from urllib.parse import urljoin

import numpy as np

from rabtriever.caching import cache_dir
from rabtriever.errors import InputError, RemoteError, check_texts
from rabtriever.progress import bar
from rabtriever.rerankers.base import PairScorer, Scores, Side
from rabtriever.rerankers.remote.answers import AnswerCache, CachedAnswer, answer_key
from rabtriever.rerankers.remote.budget import Account, Budget, Stopped
from rabtriever.rerankers.remote.options import RemoteOptions
from rabtriever.rerankers.remote.prompts import NO, YES, ChatPrompt, ServerPrompt
from rabtriever.rerankers.remote.protocols import PROTOCOLS, Prompt, read_answer
from rabtriever.rerankers.remote.source import RemoteSource
from rabtriever.rerankers.remote.transport import Transport
from rabtriever.scoring.calibration import Calibration

PROTOCOL_VERSION = 1  # to be raised with every change to a request or to how an answer is read
TEMPLATE_BYTES = 256  # what a server may add to a document and its query: a prompt, special tokens
MIN_MASS, MASS_AFTER = (
    0.5,
    20,
)  # mean probability of the choices, of so many pairs, below which the model does not answer


class _Request(NamedTuple):
    """One query, some of its documents, and the cache's keys of these pairs."""

    query: str
    documents: list[str]
    keys: list[str]


class RemoteReranker(PairScorer):
    """Scores (query, document) pairs by asking a server; see :mod:`.protocols` for what each answer means.

    Answers are cached on disk as they arrive, so that a run that is killed pays again at most for what was in flight.

    Args:
        source: The server.
        options: Everything else.
        calibration: Log-odds to probabilities; the identity if None.

    Attributes:
        fingerprint: Hash of the protocol, the URL, the model and what it is told.
        calibration: Log-odds to probabilities.
        cached: How many distinct pairs of all calls were cached.
    """

    has_states = False
    group_by: Side = "query"
    numerics = "remote"
    adapter: Path | None = None

    def __init__(
        self, source: RemoteSource, options: RemoteOptions | None = None, calibration: Calibration | None = None
    ) -> None:
        self.source, self.options = source, options or RemoteOptions()
        self.calibration = calibration or Calibration()
        self.cached = 0
        self._protocol = PROTOCOLS[source.protocol]
        self._chat = ChatPrompt(self.options.task, self.options.document_name, self.options.query_name)
        self._prompt: Prompt = self._chat
        self.fingerprint = self._make_fingerprint()
        self._answers = AnswerCache(cache_dir() / "remote" / f"{self.fingerprint[:32]}.jsonl")
        self.use(None)
        self._masses, self._lock = (0.0, 0), Lock()  # their sum and number

    def use(self, account: Account | None) -> None:
        """Counts, caps and paces its requests from now on in an account that others share; None: in one of its own."""
        self._budget = Budget(self.options, account)
        self._transport = Transport(self.source, self.options, self._budget)

    def describe(self) -> dict[str, Any]:
        """Returns, JSON-ready, its ``name`` and its protocol as the ``backend``."""
        return {"name": str(self.source), "backend": self.source.protocol}

    def to_config(self) -> dict[str, Any]:
        """Returns the JSON values of ``rabtriever.json`` that make the reranker again; no key is among them."""
        changed = {
            item.name: value
            for item in fields(self.options)
            if (value := getattr(self.options, item.name)) != item.default
        }
        return {
            "remote": {"name": f"{self.source.protocol}+{self.source.url}#{self.source.model}".rstrip("#"), **changed}
        }

    @classmethod
    def from_source(cls, name: str, **options: Any) -> RemoteReranker:  # noqa: ANN401
        """Makes the reranker of a name ``<protocol>+<url>#<model>``; nothing is sent yet.

        Args:
            name: As in :meth:`RemoteSource.parse`.
            **options: Fields of :class:`RemoteOptions`.

        Raises:
            InputError: a wrong name, an option that is none, or a value out of its range.
            StorageError: the cache cannot be read.
        """
        known = [item.name for item in fields(RemoteOptions)]
        if unknown := [option for option in options if option not in known]:
            raise InputError(
                f"{unknown[0]}: no option of remote teachers; those are {', '.join(known)}", param=unknown[0]
            )
        made = RemoteOptions(**options)
        return cls(RemoteSource.parse(name, allow_http=made.allow_http), made)

    @property
    def cost(self) -> float:
        """What this object's requests cost, in the prices' currency; 0 without prices."""
        return self._budget.cost

    @property
    def cost_is_estimated(self) -> bool:
        """Whether tokens that the server did not count are part of the cost."""
        return self._budget.is_estimated

    @property
    def calls(self) -> int:
        """Requests that were sent, those that failed included."""
        return self._budget.calls

    @property
    def mass(self) -> float | None:
        """Mean probability that the answer is one of the two choices, over the pairs so far; None if unknown."""
        total, n = self._masses
        return total / n if n else None

    @property
    def masses(self) -> tuple[float, int]:
        """The sum of these probabilities, and their number."""
        return self._masses

    def is_answered(self, query: str, document: str) -> bool:
        """Returns whether the answer about a pair is cached."""
        return self._answers.get(answer_key(query, document)) is not None

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        pairs: np.ndarray,
        *,
        with_states: bool = False,
        show_progress_bar: bool = False,
    ) -> Scores:
        """Scores pairs of queries and documents; equal pairs are asked about once.

        Args:
            queries: Texts.
            documents: Texts.
            pairs: int64 (n, 2) of (query, document) positions.
            with_states: Must be False: a server gives no states.
            show_progress_bar: Whether to show progress on stderr.

        Raises:
            InputError: ``with_states``, or ``max_cost`` would be passed.
            TextError: a text that is blank or no text.
            RemoteError: the server refuses, cannot be reached, answers something else, or its model does not choose.
            StorageError: answers cannot be kept.
        """
        if with_states:
            raise InputError(
                f"{self.source}: a remote teacher has no states; leave out with_states", param="with_states"
            )
        sides = np.asarray(pairs, np.int64).reshape(-1, 2)
        check_texts("query", queries, np.unique(sides[:, 0]).tolist())
        check_texts("document", documents, np.unique(sides[:, 1]).tolist())
        texts = [(queries[q], documents[d]) for q, d in sides.tolist()]
        keys = [answer_key(*pair) for pair in texts]
        missing = {key: pair for key, pair in zip(keys, texts, strict=True) if self._answers.get(key) is None}
        known = [answer for key in set(keys) if (answer := self._answers.get(key))]
        self.cached += len(known)
        try:
            self._check_mass(known)
            if missing:
                self._ask_all(self._group(missing), "remote pairs" if show_progress_bar else None)
        except RemoteError as error:
            raise RemoteError(f"{self.source}: {error}") from None
        answers = (self._answers.get(key) for key in keys)
        return Scores(np.fromiter((answer.log_odds for answer in answers if answer), np.float32, len(keys)))

    def _group(self, pairs: dict[str, tuple[str, str]]) -> list[_Request]:
        """Returns requests of one query each."""
        by_query: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for key, (query, document) in pairs.items():
            by_query[query].append((key, document))
        size = self._protocol.max_documents or self.options.documents_per_request
        return [
            _Request(query, [document for _, document in part], [key for key, _ in part])
            for query, items in by_query.items()
            for part in (items[start : start + size] for start in range(0, len(items), size))
        ]

    def _ask_all(self, requests: list[_Request], progress: str | None) -> None:
        """Has the answers of all requests in the cache; what is in flight at an error is waited for, and kept."""
        self._answers.prepare()
        self._transport.open()
        stop = Event()
        if self._protocol.prompt == "server" and self._prompt is self._chat:
            self._prompt = ServerPrompt.fetch(self._chat, lambda path, body: self._post(path, body, 0, stop))
        total = sum(len(request.keys) for request in requests)
        with (
            bar(total, progress, shown=progress is not None) as answered,
            ThreadPoolExecutor(self.options.concurrency, "rabtriever-remote") as pool,
        ):
            try:
                for done in as_completed([pool.submit(self._ask, request, stop) for request in requests]):
                    answered.update(done.result())
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _ask(self, request: _Request, stop: Event) -> int:
        """Asks about one request's pairs and caches the answer; returns their number, 0 if another request failed."""
        try:
            return self._ask_and_keep(request, stop)
        except Stopped:
            return 0
        except BaseException:
            stop.set()
            raise

    def _ask_and_keep(self, request: _Request, stop: Event) -> int:
        query, documents, keys = request
        body = self._protocol.request(self.source.model, query, documents, self._prompt)
        # A rerank server reads the query once with each document.
        around = len(query.encode()) + len(self.options.task.encode()) + TEMPLATE_BYTES
        n_bytes = sum(around + len(text.encode()) for text in documents)
        answer = self._post("", body, n_bytes, stop)
        scores, masses = read_answer(self._protocol, answer, len(documents), raw_scores=self.options.raw_scores)
        answers = [CachedAnswer(score, masses[i] if masses else None) for i, score in enumerate(scores)]
        self._answers.add(zip(keys, answers, strict=True))
        self._check_mass(answers)
        return len(documents)

    def _post(self, path: str, body: dict[str, Any], n_bytes: int, stop: Event) -> Any:  # noqa: ANN401
        """Sends a body to the endpoint, or to another ``path`` beside it, which is asked for the model, too."""
        url = urljoin(self.source.url, path) if path else self.source.url
        return self._transport.post(url, {"model": self.source.model, **body} if path else body, n_bytes, stop)

    def _check_mass(self, answers: Sequence[CachedAnswer]) -> None:
        """Counts answers; raises RemoteError if the model says something else than the choices."""
        masses = [answer.mass for answer in answers if answer.mass is not None]
        with self._lock:
            self._masses = self._masses[0] + sum(masses), self._masses[1] + len(masses)
            (total, n) = self._masses
        if n >= MASS_AFTER and total < MIN_MASS * n:
            fault = f"only {total / n:.0%} of the answers' probability is on {YES} or {NO}"
            raise RemoteError(f"{fault}; set another task, or have the server switch thinking off")

    def _make_fingerprint(self) -> str:
        asked = self._chat.messages("{query}", "{document}") if self._protocol.prompt else self.options.raw_scores
        identity = [PROTOCOL_VERSION, *self.source, asked]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


@cache
def notice() -> None:
    """Says on stderr, once, what to know before training on a remote teacher's answers."""
    print(
        "rabtriever: some providers' terms forbid training on their models' answers; read those of this remote teacher",
        file=sys.stderr,
    )
