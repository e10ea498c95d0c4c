"""Retrievers over a tiny encoder, and texts for them."""

import numpy as np
import torch
from scoring.predictors import random_predictor

from rabtriever.retriever import Rabtriever
from rabtriever.scoring.examples import Examples
from rabtriever.scoring.fusion import Fusion, text_keys

WORDS = (
    "weather rain wind city flight hotel recipe cook bread music song play light lamp turn sponge wipe table".split()
)
DOCUMENTS = [f"find the {a} {b} for me" for a, b in zip(WORDS, WORDS[::-1] + WORDS, strict=False)] + ["show", "a lamp"]
NEW = ["the bread is for the hotel", "please wipe the table", "wind", "song of the rain city"]
QUERIES = ["please show the weather", "where is my lamp?", "cook bread", "x", "turn " * 9, "what flight is it?"]


def make_retriever(encoder, kind="quadratic", examples=0, trained_on=DOCUMENTS, adapted=False, **fusion):
    """A retriever that was trained on some documents; no predictor if ``kind`` is None."""
    torch.manual_seed(0)
    predictor = None
    if kind:
        predictor = random_predictor(encoder.hidden_size, 16, kind, output_size=1)
        for side, states in (
            ("query", encoder.encode_queries(QUERIES)),
            ("document", encoder.encode_documents(DOCUMENTS)),
        ):
            predictor.fit_normalization(side, torch.from_numpy(states))
        fusion = {"beta": 20.0, "gain": 1.0, "new_gain": 0.3, "offset": -1.0, "center": 0.5, **fusion}
    remembered = None
    if examples:
        rows = np.random.default_rng(0).integers(len(DOCUMENTS), size=examples)
        asked = encoder.encode_queries([f"{DOCUMENTS[row]} {WORDS[i % 9]}" for i, row in enumerate(rows)])
        states = encoder.encode_documents(DOCUMENTS)
        remembered = Examples.of(asked, [[int(row)] for row in rows], text_keys(DOCUMENTS), states)
        remembered = remembered.with_strength(1.0, 2.0, 0.5)
    fused = Fusion(**fusion) if fusion else None
    size = encoder.hidden_size
    adapter = np.random.default_rng(1).normal(size=(size, size)).astype(np.float32) if adapted else None
    options = {"fusion": fused, "trained_on": text_keys(trained_on), "examples": remembered, "query_adapter": adapter}
    return Rabtriever(encoder, predictor, **options)


def log_odds(retriever, queries, documents):
    """The retriever's own."""
    return retriever.similarity(retriever.encode_query(queries), retriever.encode_document(documents))
