"""How long ``search_tools`` takes: the first answer after the servers have started, and later ones.

    python benchmarks/record.py benchmarks/results/mcp/latency_500.json \
        python benchmarks/mcp/latency.py CORPUS.jsonl --tools 500

Measured by the official client over stdio, and inside the gateway, without transport. Requests are texts of other
lines of the corpus, each asked once, so that no cache of queries helps. The machine's load is in the result.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from pathlib import Path

import anyio
from gateways import gateway_process, milliseconds, search, until_encoded, write_config

from rabtriever import Rabtriever
from rabtriever.mcp.gateway import Gateway
from rabtriever.mcp.pins import Pins
from rabtriever.mcp.vectors import Vectors
from rabtriever.sources.mcp_config import read_servers

SERVERS, WORDS = 10, 12  # words of a request


def main() -> None:
    """Prints seconds to the first answer, percentiles of later ones, and what a second start encodes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--tools", type=int, default=500)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--model", default="tools")
    args = parser.parse_args()
    with args.corpus.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in itertools.islice(lines, args.tools, args.tools + 2 * args.requests)]
    requests = [" ".join(row["text"].split()[:WORDS]) for row in rows if row["text"].strip()]
    half = len(requests) // 2
    with tempfile.TemporaryDirectory() as folder:
        config = write_config(Path(folder), args.corpus.resolve(), SERVERS, args.tools)
        report = {"servers": SERVERS, "tools": args.tools, "load": [os.getloadavg()[0]]}
        report |= anyio.run(from_client, config, args.model, requests[:half])
        report["inside"] = anyio.run(inside, config, args.model, requests[half:])
        report["load"].append(os.getloadavg()[0])
    print(json.dumps(report))


async def from_client(config: Path, model: str, requests: list[str]) -> dict:
    started = time.time()
    async with gateway_process(config, model) as client:
        while (first := await search(client, requests[0]))["starting"]:
            await anyio.sleep(0.02)
        answered = time.time()
        servers = [path for path in config.parent.glob("server*") if path.suffix == ""]
        listed = max(float(path.read_text()) for path in servers)
        by_words = await timed(client, requests[1:20])
        await until_encoded(client, config.parent / "gateway.log", requests[0])
        encoded = time.time()
        later = await timed(client, requests[20:])
    return {
        "servers_listed_after_s": round(listed - started, 2),
        "first_answer_after_servers_s": round(answered - listed, 2),
        "first_answer": {"total": first["total"], "starting": first["starting"]},
        "while_the_model_loads": by_words,
        "all_encoded_after_s": round(encoded - started, 1),
        "client_over_stdio": later,
    }


async def timed(client, requests: list[str]) -> dict:
    durations = []
    for request in requests:
        before = time.perf_counter()
        await search(client, request)
        durations.append(time.perf_counter() - before)
    return milliseconds(durations)


async def inside(config: Path, model: str, requests: list[str]) -> dict:
    """The gateway in this process, on the state that the other one left: its second start."""
    state = config.parent / "state"
    vectors = Vectors(state, lambda: Rabtriever.from_pretrained(model))
    gateway = Gateway(read_servers(config), Pins(state / "tools"), vectors)
    async with gateway.running():
        while vectors.index is None or any(not tool.available for tool in gateway.catalogue.tools.values()):
            await anyio.sleep(0.2)
        waiting = len(vectors.missing(gateway.catalogue.tools))
        await gateway.search_tools(requests[0])
        durations, used = [], time.process_time()
        for request in requests[1:]:
            before = time.perf_counter()
            await gateway.search_tools(request)
            durations.append(time.perf_counter() - before)
        used = (time.process_time() - used) / len(durations)
    return {**milliseconds(durations), "cpu_ms": round(used * 1000, 1), "encoded_by_a_second_start": waiting}


if __name__ == "__main__":
    main()
