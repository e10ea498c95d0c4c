"""Searches only: by clients that ask again when they are answered, or arriving at a rate."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

from client import Client
from server import Server


class Queries:
    """Query texts, each used once."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = iter(texts)

    def __call__(self) -> str:
        """Returns the next one."""
        return next(self._texts)


class Answers:
    """Times and errors of searches."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.overhead: list[float] = []
        self.stages: dict[str, list[float]] = {}
        self.errors = 0

    async def search(self, client: Client, query: str) -> None:
        """Searches once."""
        status, answer, seconds = await client.call("POST", "/v1/search", {"query": query})
        if status != 200:
            self.errors += 1
            return
        self.seconds.append(seconds)
        timings = answer["timings"]
        for stage, value in timings.items():
            self.stages.setdefault(stage, []).append(value)
        self.overhead.append(1000 * seconds - timings["encode"] - timings["scan"])

    def report(self, duration: float) -> dict[str, Any]:
        """Returns the figures."""
        ordered = sorted(self.seconds)
        return {
            "throughput": round(len(ordered) / duration, 1),
            "p50_ms": round(1000 * ordered[len(ordered) // 2], 1),
            "p99_ms": round(1000 * ordered[int(0.99 * len(ordered))], 1),
            "overhead_ms": round(statistics.median(self.overhead), 2),
            **{f"{stage}_ms": round(statistics.median(values), 2) for stage, values in self.stages.items()},
            "requests": len(ordered),
            "errors": self.errors,
        }


async def closed(server: Server, queries: Queries, clients: int, seconds: float) -> dict[str, Any]:
    """Returns figures of clients that ask again when they are answered."""
    answers, started = Answers(), time.perf_counter()

    async def one() -> None:
        client = Client(server.port)
        while time.perf_counter() < started + seconds:
            await answers.search(client, queries())
        client.close()

    await asyncio.gather(*(one() for _ in range(clients)))
    return answers.report(time.perf_counter() - started)


async def at_rate(server: Server, queries: Queries, rate: float, seconds: float) -> dict[str, Any]:
    """Returns figures of searches that arrive at random (Poisson), whether or not earlier ones are answered."""
    answers, idle, tasks = Answers(), [Client(server.port)], set()
    generator, started = random.Random(0), time.perf_counter()

    async def one(query: str) -> None:
        client = idle.pop() if idle else Client(server.port)
        await answers.search(client, query)
        idle.append(client)

    due = 0.0
    while (due := due + generator.expovariate(rate)) < seconds:
        await asyncio.sleep(max(0.0, started + due - time.perf_counter()))
        tasks.add(asyncio.create_task(one(queries())))
    await asyncio.gather(*tasks)
    for client in idle:
        client.close()
    return {"rate": round(rate, 1), **answers.report(time.perf_counter() - started)}


def merged(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns medians over turns; sums of errors and requests."""
    return {
        name: sum(values) if name in ("errors", "requests") else round(statistics.median(values), 2)
        for name in turns[0]
        for values in [[turn[name] for turn in turns]]
    }
