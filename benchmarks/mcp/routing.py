"""Whether ``call_tool`` ever reaches another tool than the one that was named, while servers die and return.

    python benchmarks/record.py benchmarks/results/mcp/routing.json \
        python benchmarks/mcp/routing.py CORPUS.jsonl --calls 10000

Every stub tool answers with its server's name and its own. Meanwhile a server is killed (SIGKILL) every so often; the
gateway starts it again. An answer is right, or a clear error, or wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import anyio
from gateways import gateway_process, write_config

SERVERS, TOOLS, AT_ONCE = 10, 500, 16
CLEAR = ("is away; ", "is being started; ", "was lost during the call")


def main() -> None:
    """Prints how many calls were right, refused with a clear error, or wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--kill-every", type=float, default=2.0, help="seconds")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = write_config(Path(folder), args.corpus.resolve(), SERVERS, TOOLS)
        print(json.dumps(anyio.run(measure, config, args.calls, args.kill_every)))


async def measure(config: Path, calls: int, kill_every: float) -> dict:
    rng, counts, wrong, started = random.Random(0), Counter(), list(), time.time()
    async with gateway_process(config, "minilm") as client:
        names = await all_names(client)
        pids, left = dict[str, int](), iter(range(calls))

        async def work() -> None:
            for _ in left:
                name = rng.choice(names)
                server, _, tool = name.partition(".")
                result = await client.call_tool("call_tool", {"name": name})
                text = result.content[0].text
                if result.is_error:
                    counts["error" if any(clear in text for clear in CLEAR) else "unclear error"] += 1
                    continue
                answer = json.loads(text)
                pids[server] = answer["pid"]
                good = (answer["server"], answer["tool"], answer["known"]) == (server, tool, True)
                counts["right" if good else "wrong"] += 1
                if not good:
                    wrong.append([name, answer])

        async def kill() -> None:
            while True:
                await anyio.sleep(kill_every)
                if pids:
                    with suppress(ProcessLookupError):
                        os.kill(pids.pop(rng.choice(list(pids))), signal.SIGKILL)
                        counts["killed"] += 1

        async with anyio.create_task_group() as group:
            group.start_soon(kill)
            async with anyio.create_task_group() as workers:
                for _ in range(AT_ONCE):
                    workers.start_soon(work)
            group.cancel_scope.cancel()
    every = {key: counts[key] for key in ("right", "error", "unclear error", "wrong", "killed")}
    return {"calls": calls, "tools": len(names), **every, "wrong_answers": wrong[:5], "s": round(time.time() - started)}


async def all_names(client) -> list[str]:
    """Returns the names of all tools, which the stub servers give by number."""
    while (found := (await client.call_tool("search_tools", {"request": "skill-0"})).structured_content)["starting"]:
        await anyio.sleep(0.1)
    assert found["total"] == TOOLS, found
    each = TOOLS // SERVERS
    return [f"server{number // each}.skill-{number}" for number in range(TOOLS)]


if __name__ == "__main__":
    main()
