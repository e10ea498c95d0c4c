"""Counters and histograms for Prometheus."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one process; of several, their sums over what each wrote to ``$PROMETHEUS_MULTIPROC_DIR``."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        self.requests = Counter(
            "rabtriever_requests", "Requests by route, method and status", ["route", "method", "status"], registry=own
        )
        self.seconds = Histogram(
            "rabtriever_request_seconds", "Seconds of a request", ["route"], buckets=SECONDS, registry=own
        )
        self.stages = Histogram(
            "rabtriever_stage_seconds",
            "Seconds of a stage: queue, encode, scan, rerank, write",
            labelnames=["stage"],
            buckets=SECONDS,
            registry=own,
        )
        self.queue = Gauge(
            "rabtriever_queue",
            "Requests that wait or are in progress: search, rerank, write",
            ["kind"],
            registry=own,
            multiprocess_mode="livesum",
        )
        self.batch = Histogram(
            "rabtriever_query_batch_size", "Queries that are encoded together", buckets=SIZES, registry=own
        )
        self.tokens = Counter(
            "rabtriever_tokens", "Tokens of the texts of requests: query, document", ["side"], registry=own
        )
        self.truncated = Counter(
            "rabtriever_truncations", "Texts truncated to their budget: query, document", ["side"], registry=own
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Observes the seconds of a stage."""
        started = perf_counter()
        try:
            yield
        finally:
            self.stages.labels(name).observe(perf_counter() - started)

    def text(self) -> bytes:
        """Returns the exposition format."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        for path in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("gauge_live*_*.db"):
            if not _is_running(int(path.stem.rsplit("_", 1)[1])):
                path.unlink(missing_ok=True)  # of a process that was killed
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
