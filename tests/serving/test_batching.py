import asyncio
import threading

import numpy as np
import pytest

from rabtriever.serving.batching import ConcurrencyLimiter, QueryBatcher
from rabtriever.serving.errors import APIError
from rabtriever.serving.metrics import Metrics


class Encoder:
    """Tells a text's length, one batch each time the gate opens."""

    def __init__(self):
        self.gate, self.batches = threading.Semaphore(0), []

    def __call__(self, texts):
        self.batches.append(list(texts))
        assert self.gate.acquire(timeout=5)
        if "bad" in texts:
            raise ValueError("bad")
        return np.array([[len(text)] for text in texts], np.float32)


def batcher(encoder, budget=10):
    return QueryBatcher(encoder, budget, Metrics())


async def settle():
    for _ in range(20):
        await asyncio.sleep(0.005)


async def both_sides_busy(encode):
    """The first text is read alone, the second beside it."""
    tasks = []
    for text in ("a", "z"):
        tasks.append(asyncio.create_task(encode(text, 1)))
        await settle()
    return tasks


def test_what_comes_meanwhile_is_the_next_batch_within_the_budget():
    async def work():
        encoder = Encoder()
        encode = batcher(encoder)
        tasks = await both_sides_busy(encode)
        tasks += [asyncio.create_task(encode(text, 4)) for text in ("bb", "ccc", "dddd", "bb", "a")]
        await settle()
        assert encoder.batches == [["a"], ["z"]]
        for _ in range(4):
            encoder.gate.release()
            await settle()
        found = [row.tolist() for row, _ in await asyncio.gather(*tasks)]
        assert found == [[1], [1], [2], [3], [4], [2], [1]]
        assert encoder.batches == [["a"], ["z"], ["bb", "ccc"], ["dddd"]]  # equal texts are read once
        encoder.gate.release()
        row, waited = await encode("e" * 50, 50)  # longer than the budget: a batch of its own
        assert row.tolist() == [50] and waited < 0.1

    asyncio.run(work())


def test_many_that_come_together_are_shared_out():
    async def work():
        encoder = Encoder()
        encode = batcher(encoder, budget=100)
        encoder.gate.release(2)
        await asyncio.gather(*(encode(text * 3, 3) for text in "abcdef"))
        assert sorted(map(len, encoder.batches)) == [3, 3]

    asyncio.run(work())


def test_who_goes_away_is_not_read():
    async def work():
        encoder = Encoder()
        encode = batcher(encoder)
        tasks = await both_sides_busy(encode)
        gone, shared, other = (asyncio.create_task(encode(text, 1)) for text in ("bb", "ccc", "ccc"))
        await settle()
        gone.cancel()
        shared.cancel()
        await settle()
        encoder.gate.release(3)
        assert (await other)[0].tolist() == [3]
        await asyncio.gather(*tasks)
        assert encoder.batches == [["a"], ["z"], ["ccc"]]

    asyncio.run(work())


def test_an_error_reaches_all_of_its_batch_and_no_other():
    async def work():
        encoder = Encoder()
        encode = batcher(encoder)
        tasks = [asyncio.create_task(encode(text, 9)) for text in ("a", "bad")]
        encoder.gate.release(3)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(found[1], ValueError) and found[0][0].tolist() == [1]
        assert (await encode("ccc", 1))[0].tolist() == [3]

    asyncio.run(work())


def test_places_are_bounded():
    places = ConcurrencyLimiter("search", 1, Metrics())
    with places.take():
        with pytest.raises(APIError) as told, places.take():
            pass
        assert told.value.status == 429 and int(told.value.headers["Retry-After"]) >= 1
    with places.take():
        assert places.taken == 1
    assert places.taken == 0
