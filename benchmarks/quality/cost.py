"""What a remote teacher would cost for a distillation without labels, at public list prices.

    python benchmarks/record.py benchmarks/results/quality/cost.json python benchmarks/quality/cost.py BEIR_FOLDERS

Tokens are counted by MiniLM's tokenizer; those of other models differ by a tenth or two. A teacher's prompt adds
:data:`PROMPT_TOKENS` to each pair that an LLM reads.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from rabtriever.encoders.loading import load_encoder

sys.path.insert(0, str(Path(__file__).parents[1]))
from quality.corpora import OWN, REQUESTS, Bench, unlabelled  # noqa: E402

CALLS = 3000  # pairs that an LLM reads, one a request
PROMPT_TOKENS = 60
DOCUMENTS_A_SEARCH = 100
# US dollars; list prices as found in 2026, without discounts for batches.
PRICES = {
    "text-embedding-3-large, a million tokens": 0.13,  # developers.openai.com/api/docs/models/text-embedding-3-large
    "rerank-v4.0-pro, a thousand searches": 2.0,  # cohere.com/pricing: a query with up to 100 documents is a search
    "rerank-2.5, a million tokens": 0.05,  # docs.voyageai.com/docs/pricing: the query counts once for each document
    "gpt-5.4-mini, a million tokens read": 0.75,  # developers.openai.com/api/docs/models/gpt-5.4-mini
}


def main() -> None:
    """Prints tokens and dollars of each corpus."""
    bench, encoder, result = Bench(argparse.Namespace(data=sys.argv[1])), load_encoder("minilm"), {}
    for name in OWN:
        data = unlabelled(bench.data(name), REQUESTS)
        tests = {query for qrels in data.qrels.values() for query in qrels}
        requests = [text for query, text in data.queries.items() if query not in tests]
        q = np.sum(encoder.count_tokens("query", requests))
        d = np.sum(encoder.count_tokens("document", [document.content for document in data.documents.values()]))
        n, m = len(requests), len(data.documents)
        embedding, search, rerank, read = PRICES.values()
        pair = q / n + d / m
        dollars = {
            "embeddings of all": (q + d) * embedding / 1e6,
            "reranker, a search a request": n * -(-m // DOCUMENTS_A_SEARCH) * search / 1e3,
            "reranker, by tokens, all pairs": (q * m + d * n) * rerank / 1e6,
            "LLM, 3,000 pairs": CALLS * (pair + PROMPT_TOKENS) * read / 1e6,
        }
        result[name] = {"requests": n, "documents": m, "tokens of requests": int(q), "tokens of documents": int(d)}
        result[name]["dollars"] = {key: round(float(value), 4) for key, value in dollars.items()}
    print(json.dumps({"prices": PRICES, "corpora": result}))


if __name__ == "__main__":
    main()
