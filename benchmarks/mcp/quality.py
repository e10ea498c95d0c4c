"""Whether a corpus served as tools through the gateway is searched as `rabtriever evaluate` searches it.

    python benchmarks/record.py benchmarks/results/mcp/quality.json \
        python benchmarks/mcp/quality.py DATA [--model tools]

DATA holds the BEIR folders. A document's id becomes a legal name, its title the title, its text the description. Both
systems are measured by ``evaluate``; R@5, which it leaves out, from the same hits. Also counted: how often a tool's
exact name finds it first, and how often a request that a tool serves is told that none does.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from anyio.from_thread import start_blocking_portal
from gateways import gateway_process, search, until_encoded, write_config
from stub_server import tool_name

from rabtriever import Index, Rabtriever, evaluate, load_data
from rabtriever.data import RetrievalData
from rabtriever.index.hits import Hit

CORPORA, SERVERS, K = "toolalpaca_eval restbench_spotify k8s_tools".split(), 3, 10
SHOWN = ("R@1", "R@3", "R@10", "nDCG@10")


def main() -> None:
    """Prints the measures of both, and what else is counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="tools")
    args = parser.parse_args()
    report, retriever = {}, Rabtriever.from_pretrained(args.model)
    for name in CORPORA:
        data = load_data(args.data / name)
        index = Index.build(None, retriever, data.documents.values())
        with tempfile.TemporaryDirectory() as folder, start_blocking_portal() as portal:
            corpus = args.data.resolve() / name / "corpus.jsonl"
            config = write_config(Path(folder), corpus, SERVERS, len(data.documents))
            with portal.wrap_async_context_manager(gateway_process(config, args.model)) as client:
                portal.call(until_encoded, client, config.parent / "gateway.log", next(iter(data.queries.values())))
                report[name] = compare(data, index, lambda text, k: portal.call(search, client, text, k))
    print(json.dumps(report))


def compare(data: RetrievalData, index: Index, ask: Callable[[str, int], dict]) -> dict:
    names = {tool_name(identifier): identifier for identifier in data.documents}
    assert len(names) == len(data.documents)
    found: dict[str, dict[str, list[str]]] = {"evaluate": {}, "gateway": {}}
    doubted = set[str]()

    def own(texts: list[str]) -> list[list[Hit]]:
        hits = index.search(texts, K)
        found["evaluate"] |= {text: [hit.id for hit in of_text] for text, of_text in zip(texts, hits, strict=True)}
        return hits

    def through_gateway(texts: list[str]) -> list[list[Hit]]:
        return [through(text) for text in texts]

    def through(text: str) -> list[Hit]:
        answer = ask(text, K)
        shown = [names[tool["name"].partition(".")[2]] for tool in answer["tools"] or answer["closest"]]
        found["gateway"][text] = shown
        if answer["fits"] is False:
            doubted.add(text)
        return [Hit(identifier, 0.0, float(-rank), "", {}) for rank, identifier in enumerate(shown)]

    systems = evaluate(data, {"evaluate": own, "gateway": through_gateway})["systems"]
    queries = data.labelled_queries("test")
    first = sum(ask(name, 1)["tools"][0]["name"].partition(".")[2] == name for name in names)
    return {
        **{name: {key: round(of[key], 4) for key in SHOWN} for name, of in systems.items()},
        "R@5": {name: round(recall(data, queries, lists), 4) for name, lists in found.items()},
        "same_first_ten": sum(found["evaluate"][text] == found["gateway"][text] for text in queries.values()),
        "requests": len(queries),
        "told_that_nothing_fits": len(doubted),
        "tools": len(names),
        "exact_name_first": first,
    }


def recall(data: RetrievalData, queries: dict[str, str], lists: dict[str, list[str]]) -> float:
    shares = []
    for query, text in queries.items():
        relevant = {document for document in data.qrels["test"][query] if data.is_positive("test", query, document)}
        shares.append(len(relevant & set(lists[text][:5])) / max(1, len(relevant)))
    return sum(shares) / len(shares)


if __name__ == "__main__":
    main()
