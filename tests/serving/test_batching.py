import asyncio
import threading

import numpy as np

from rabtriever.index import Hit
from rabtriever.index.search import SearchOptions
from rabtriever.serving.batching import MAX_SLICE_TOKENS, QueryBatcher, ScanBatcher, slices
from rabtriever.serving.metrics import Metrics


class Encoder:
    """Returns a text's length, one batch each time the gate opens."""

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
        rows = [row.tolist() for row, _ in await asyncio.gather(*tasks)]
        assert rows == [[1], [1], [2], [3], [4], [2], [1]]
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
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[1], ValueError) and results[0][0].tolist() == [1]
        assert (await encode("ccc", 1))[0].tolist() == [3]

    asyncio.run(work())


class Retrieve:
    """Returns one hit a query, named after its text and latent; one batch each time the gate opens."""

    def __init__(self):
        self.gate, self.batches = threading.Semaphore(0), []

    def __call__(self, texts, vectors, options):
        self.batches.append((list(texts), options.k))
        assert self.gate.acquire(timeout=5)
        if "bad" in texts:
            raise ValueError("bad")
        return [[Hit(f"{text}{row[0]:g}", 0.5, 0.0, text, {})] for text, row in zip(texts, vectors, strict=True)]


def scanned(scan, *texts, k=1):
    return asyncio.create_task(scan(texts, np.array([[len(text)] for text in texts], np.float32), SearchOptions(k)))


def found(result):
    return [hits[0].id for hits in result[0]]


def test_requests_that_search_alike_are_scanned_together():
    async def work():
        retrieve = Retrieve()
        scan = ScanBatcher(retrieve, Metrics())
        tasks = [scanned(scan, "a"), scanned(scan, "bb", "c"), scanned(scan, "ddd", k=2), scanned(scan, "e", k=3)]
        await settle()
        assert retrieve.batches == [(["a", "bb", "c"], 1), (["ddd"], 2)]
        retrieve.gate.release(3)
        results = await asyncio.gather(*tasks)
        assert list(map(found, results)) == [["a1"], ["bb2", "c1"], ["ddd3"], ["e1"]]
        assert retrieve.batches[2] == (["e"], 3)
        scan.close()

    asyncio.run(work())


def test_a_scan_that_fails_fails_its_batch_alone_and_one_that_nobody_awaits_is_left_out():
    async def work():
        retrieve = Retrieve()
        scan = ScanBatcher(retrieve, Metrics())
        tasks = [scanned(scan, "bad"), scanned(scan, "a"), scanned(scan, "b", k=2)]
        gone, waits = scanned(scan, "gone", k=3), scanned(scan, "waits", k=3)
        await settle()
        gone.cancel()
        await settle()
        retrieve.gate.release(3)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[0], ValueError) and isinstance(results[1], ValueError)
        assert found(results[2]) == ["b1"] and found(await waits) == ["waits5"]
        assert [texts for texts, _ in retrieve.batches] == [["bad", "a"], ["b"], ["waits"]]
        scan.close()

    asyncio.run(work())


def test_slices_keep_the_order_and_the_budget():
    sizes = [7 * i % 300 + 1 for i in range(100)]
    parts = list(slices(sizes))
    assert [i for part in parts for i in range(100)[part]] == list(range(100))
    assert all(len(sizes[part]) == 1 or sum(sizes[part]) <= MAX_SLICE_TOKENS for part in parts)
    assert list(slices([])) == []


def test_a_text_that_is_asked_for_while_its_batch_begins_is_encoded_once():
    async def later(encode, text):
        await asyncio.sleep(0)
        return await encode(text, 1)

    async def work():
        encoder = Encoder()
        encode = batcher(encoder)
        for _ in range(8):
            encoder.gate.release()
        tasks = [encode("A", 1), later(encode, "A"), later(encode, "B"), later(encode, "C")]
        await asyncio.wait_for(asyncio.gather(*tasks), 5)
        assert [text for batch in encoder.batches for text in batch].count("A") == 1
        row, _ = await asyncio.wait_for(encode("B", 1), 5)  # nothing of the batches is left behind
        assert row.tolist() == [1] and not encode._in_progress

    asyncio.run(work())
