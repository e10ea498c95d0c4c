"""Whether a corpus served as tools through the gateway is searched as `rabtriever evaluate` searches it.

    python benchmarks/record.py benchmarks/results/mcp/quality.json \
        python benchmarks/mcp/quality.py DATA [--model tools]

DATA holds the BEIR folders. A document's id becomes a legal name, its title the title, its text the description. Also
counted: how often a tool's exact name finds it first, and how often a request that a tool serves is told none does.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path

import anyio
from gateways import gateway_process, search, until_encoded, write_config
from stub_server import tool_name

from rabtriever import Index, Rabtriever, evaluate, load_data
from rabtriever.data import RetrievalData

CORPORA, SERVERS, K = "toolalpaca_eval restbench_spotify k8s_tools".split(), 3, 5


def main() -> None:
    """Prints R@5 both ways, and the share of tools whose exact name finds them first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="tools")
    args = parser.parse_args()
    report, retriever = {}, Rabtriever.from_pretrained(args.model)
    for name in CORPORA:
        data = load_data(args.data / name)
        index = Index.build(None, retriever, data.documents.values())
        own = evaluate(data, {"retriever": index.search})["systems"]["retriever"]["R@5"]
        with tempfile.TemporaryDirectory() as folder:
            corpus = args.data.resolve() / name / "corpus.jsonl"
            config = write_config(Path(folder), corpus, SERVERS, len(data.documents))
            report[name] = {"evaluate_R@5": own, **anyio.run(through_gateway, config, args.model, data)}
    print(json.dumps(report))


async def through_gateway(config: Path, model: str, data: RetrievalData) -> dict:
    names = {tool_name(identifier): identifier for identifier in data.documents}
    assert len(names) == len(data.documents)
    first = doubted = 0
    found: dict[str, list[str]] = {}
    async with gateway_process(config, model) as client:
        queries = data.labelled_queries("test")
        await until_encoded(client, config.parent / "gateway.log", next(iter(queries.values())))
        for query, text in queries.items():
            answer = await search(client, text, K)
            doubted += answer["fits"] is False
            shown = answer["tools"] or answer["closest"]
            found[query] = [names[one["name"].partition(".")[2]] for one in shown]
        for name in names:
            answer = await search(client, name, 1)
            first += answer["tools"][0]["name"].partition(".")[2] == name
    shares = []
    for query, shown in found.items():
        relevant = {document for document in data.qrels["test"][query] if data.is_positive("test", query, document)}
        shares.append(len(relevant & set(shown)) / len(relevant))
    return {
        "gateway_R@5": sum(shares) / len(shares),
        "requests": len(queries),
        "told_that_nothing_fits": round(doubted / len(queries), 3),
        "tools": len(names),
        "exact_name_first": first / len(names),
    }


if __name__ == "__main__":
    main()
