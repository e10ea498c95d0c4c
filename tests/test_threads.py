"""Processes that fork after a model was loaded: prefork servers, multiprocessing's default on Linux."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import make_retriever

from rabtriever.data import Document
from rabtriever.index import Index
from rabtriever.retriever import Rabtriever

FORKS = """
import multiprocessing, os, sys, warnings
import numpy as np
import torch
from rabtriever import Index, Rabtriever

warnings.simplefilter("ignore")
torch.set_num_threads(2)  # the parent has a pool, which a child lacks
torch.ones(512, 512) @ torch.ones(512, 512)
torch.ones(2_000_000).exp().sum()
retriever = Rabtriever.from_pretrained("model", query_cache=0, backend=sys.argv[1], dtype="float32")
index = Index.open("index", retriever)
texts = ["find the rain for my city table", "cook bread"] * 8
calls = {
    "query": lambda: retriever.encode_query(texts),
    "document": lambda: retriever.encode_document(texts),
    "predict": lambda: retriever.reranker.predict([(text, text) for text in texts]),
    "search": lambda: [hit.log_odds for hit in index.search("rain", rerank=2)],
}
context = multiprocessing.get_context("fork")
for name, call in calls.items():
    want, queue = call(), context.Queue()
    child = context.Process(target=lambda: queue.put(call()), daemon=True)
    child.start()
    assert np.allclose(queue.get(timeout=60), want, atol=1e-4), name
    child.join()
print("answered")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("backend", ["torch", "int8"])
def test_a_child_of_a_process_that_has_computed_answers(reranker, tmp_path, backend):
    retriever = make_retriever(reranker)
    retriever.save_pretrained(tmp_path / "model")
    options = [sys.executable, "-c", FORKS, backend]
    if backend == "int8":
        options[2] = FORKS.replace(', dtype="float32"', "")
    loading = {"backend": backend} | ({"dtype": "float32"} if backend == "torch" else {})
    made = Rabtriever.from_pretrained(tmp_path / "model", **loading)
    Index.build(tmp_path / "index", made, [Document(f"d{i}", f"find the rain {i}") for i in range(20)])
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    done = subprocess.run(options, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
    assert done.stdout.endswith("answered\n"), done.stderr[-2000:]
