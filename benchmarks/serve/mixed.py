"""Searches, reranks and writes at once, each answer compared with what it must be."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from client import Client
from server import Server

from rabtriever import Index

CLIENTS = {"search": 12, "rerank": 2, "write": 2}
DEPTH, SPARE = 10, 40  # hits that are compared; further ones, for documents that the load itself has written
CLOSE = 2e-3  # log-odds


@dataclass
class Expected:
    """Scores computed in this process.

    Attributes:
        hits: Query -> the best documents' ids and log-odds.
        scored: Query -> texts and the log-odds of both scorers.
    """

    hits: dict[str, list[tuple[str, float]]]
    scored: dict[str, tuple[list[str], dict[str, list[float]]]]

    @classmethod
    def of(cls, index: Index, queries: Sequence[str]) -> Expected:
        """Returns those of an index that is opened here."""
        retriever = index.retriever
        found = dict(zip(queries, index.search(queries, k=DEPTH), strict=True))
        scored = {}
        for query, hits in list(found.items())[:16]:
            texts = [hit.text for hit in hits[:6]]
            scores = retriever.similarity(retriever.encode_query([query]), retriever.encode_document(texts))[0]
            reranked = retriever.reranker.log_odds([query], texts)[0]
            scored[query] = texts, {"retriever": scores.tolist(), "reranker": reranked.tolist()}
        return cls({query: [(hit.id, hit.log_odds) for hit in hits] for query, hits in found.items()}, scored)


async def mixed(server: Server, expected: Expected, warm: float, seconds: float) -> dict[str, Any]:
    """Returns figures of clients of each kind, without a pause.

    Args:
        server: The server.
        expected: What the answers must equal.
        warm: Seconds before memory is read first.
        seconds: And until it is read last.
    """
    load = _Load(server, expected)
    end = time.perf_counter() + warm + seconds
    ways = {"search": load.search, "rerank": load.rerank, "write": load.write}
    clients = [
        asyncio.create_task(load.keep(ways[kind], f"{kind}{i}", end)) for kind, n in CLIENTS.items() for i in range(n)
    ]
    await asyncio.sleep(warm)
    before = server.memory()
    await asyncio.gather(*clients)
    after = server.memory()
    return {
        "seconds": round(warm + seconds),
        "requests": dict(load.count),
        "errors": load.errors,
        "wrong": load.wrong,
        "faults": load.faults[:5],
        "rss_mb": [before // 2**20, after // 2**20],
        "rss_growth": round(after / before, 3),
    }


class _Load:
    def __init__(self, server: Server, expected: Expected) -> None:
        self.server, self.expected = server, expected
        self.errors, self.wrong, self.count, self.faults = 0, 0, Counter[str](), list[str]()

    async def keep(self, work: Any, name: str, end: float) -> None:
        """Makes one client's requests."""
        client, generator, turn = Client(self.server.port), random.Random(name), 0
        while time.perf_counter() < end:
            await work(client, generator, f"{name}-{turn}")
            turn += 1
        client.close()

    async def search(self, client: Client, generator: random.Random, name: str) -> None:
        """Searches queries of the list, half of the time with another word, which makes them new."""
        query = generator.choice(list(self.expected.hits))
        if generator.random() < 0.5:  # only the number of hits is checked
            answer = await self.ask(client, "POST", "/v1/search", {"query": f"{query} {name}", "k": 5})
            self.check(answer is None or len(answer["hits"]) == 5, "hits of a new query")
            return
        answer = await self.ask(client, "POST", "/v1/search", {"query": query, "k": DEPTH + SPARE})
        if answer is not None:
            found = [(hit["id"], hit["log_odds"]) for hit in answer["hits"] if not hit["id"].startswith("write")]
            self.check(_same(found[:DEPTH], self.expected.hits[query]), f"hits of {query!r}")

    async def rerank(self, client: Client, generator: random.Random, name: str) -> None:
        """Reranks with either scorer."""
        query = generator.choice(list(self.expected.scored))
        texts, scores = self.expected.scored[query]
        model = generator.choice(list(scores))
        answer = await self.ask(client, "POST", "/v1/rerank", {"model": model, "query": query, "documents": texts})
        if answer is not None:
            found = {row["index"]: row["log_odds"] for row in answer["results"]}
            right = [found.get(i, np.inf) for i in range(len(texts))]
            self.check(np.allclose(right, scores[model], atol=CLOSE), f"{model}'s log-odds of {query!r}")

    async def write(self, client: Client, generator: random.Random, name: str) -> None:
        """Adds, finds, gets and removes a document, and misses it."""
        identifier, path = f"write/{name}", f"/v1/documents/write/{name}"
        document = {"id": identifier, "title": "", "text": f"keeps {name} in order", "metadata": {"name": name}}
        await self.ask(client, "POST", "/v1/documents", {"documents": [document]})
        search = {"query": document["text"], "where": f"id = '{identifier}'"}
        answer = await self.ask(client, "POST", "/v1/search", search)
        self.check(answer is None or [hit["id"] for hit in answer["hits"]] == [identifier], "a written document, found")
        self.check(await self.ask(client, "GET", path) == document, "a written document")
        await self.ask(client, "DELETE", path, expect=204)
        await self.ask(client, "GET", path, expect=404)
        answer = await self.ask(client, "POST", "/v1/search", search)
        self.check(answer is None or answer["hits"] == [], "a removed document, not found")

    async def ask(self, client: Client, method: str, path: str, body: Any = None, expect: int = 200) -> Any:
        """Returns the answer; None if it is an error."""
        status, answer, _ = await client.call(method, path, body)
        self.count[f"{method} {path.split('/write/')[0]}"] += 1
        if status == expect:
            return answer
        self.errors += 1
        self.faults.append(f"{method} {path}: {status} {answer}")
        return None

    def check(self, right: bool, what: str) -> None:
        """Counts what is wrong."""
        if not right:
            self.wrong += 1
            self.faults.append(f"wrong: {what}")


def _same(found: list[tuple[str, float]], wanted: list[tuple[str, float]]) -> bool:
    scores = dict(wanted)
    if len(found) != len(wanted) or not np.allclose([s for _, s in found], [s for _, s in wanted], atol=CLOSE):
        return False
    return all(abs(scores.get(name, score) - score) < CLOSE for name, score in found)  # neighbours may be swapped
