"""Counters and histograms for Prometheus."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one process; of several, their sums over what each wrote to ``$PROMETHEUS_MULTIPROC_DIR``."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        options: dict[str, Any] = {"namespace": "rabtriever", "registry": self.registry}
        counter: Callable[..., Counter] = partial(Counter, **options)
        histogram: Callable[..., Histogram] = partial(Histogram, **options)
        self.requests = counter("requests", "Requests by route, method and status", ["route", "method", "status"])
        self.seconds = histogram("request_seconds", "Seconds of a request", ["route"], buckets=SECONDS)
        stages = "Seconds of a stage: queue, encode, scan, rerank, write, feedback"
        self.stages = histogram("stage_seconds", stages, ["stage"], buckets=SECONDS)
        queue = "Requests that wait or are in progress: search, rerank, write, feedback"
        self.queue = Gauge("queue", queue, ["kind"], multiprocess_mode="livesum", **options)
        self.batch = histogram("query_batch_size", "Queries that are encoded together", buckets=SIZES)
        self.tokens = counter("tokens", "Tokens of the texts of requests: query, document", ["side"])
        self.truncated = counter("truncations", "Texts truncated to their budget: query, document", ["side"])

    def text(self) -> bytes:
        """Returns the exposition format."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        for path in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("gauge_live*_*.db"):
            try:
                os.kill(int(path.stem.rsplit("_", 1)[1]), 0)
            except OSError:
                path.unlink(missing_ok=True)  # of a process that was killed
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
