import asyncio
import threading

import pytest

from rabtriever.serving.errors import APIError
from rabtriever.serving.metrics import Metrics
from rabtriever.serving.workers import ConcurrencyLimiter, WorkerPool


def test_requests_in_progress_are_bounded():
    limiter = ConcurrencyLimiter("search", 1, Metrics())
    with limiter.acquire():
        with pytest.raises(APIError) as error, limiter.acquire():
            pass
        assert error.value.status == 429 and int(error.value.headers["Retry-After"]) >= 1
    with limiter.acquire(5):  # more than there are: all of them
        assert limiter.in_use == 5
    assert limiter.in_use == 0


def test_work_that_has_begun_is_waited_for_and_work_that_has_not_is_dropped():
    async def work():
        pool, gate, done = WorkerPool("test"), threading.Event(), []

        def slow(name):
            gate.wait(5)
            done.append(name)

        begun, waiting = (asyncio.create_task(pool.run_uncancellable(slow, name)) for name in "ab")
        await asyncio.sleep(0.05)
        for task in (begun, waiting):
            task.cancel()
        await asyncio.sleep(0.05)
        assert waiting.cancelled() and not begun.done()
        gate.set()
        await begun
        await pool.run(lambda: None)
        assert done == ["a"]
        pool.close()

    asyncio.run(work())
