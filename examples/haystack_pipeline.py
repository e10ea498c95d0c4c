"""Haystack: a pipeline that searches and reranks, saved to YAML and loaded again."""

import tempfile
from pathlib import Path

from haystack import Pipeline
from home import FUNCTIONS

from rabtriever import Document, Index, Rabtriever
from rabtriever.integrations.haystack import RabtrieverRanker, RabtrieverRetriever

REQUEST = "I knocked my soda over in the kitchen"

with tempfile.TemporaryDirectory() as folder:
    documents = [Document(function.__name__, function.__doc__) for function in FUNCTIONS]
    Index.build(Path(folder) / "index", Rabtriever.from_pretrained("tools"), documents)

    pipeline = Pipeline()
    pipeline.add_component("retriever", RabtrieverRetriever(Path(folder) / "index", top_k=5))
    pipeline.add_component("ranker", RabtrieverRanker("tools", top_k=2))
    pipeline.connect("retriever.documents", "ranker.documents")

    loaded = Pipeline.loads(pipeline.dumps(), allowed_modules=["rabtriever"])
    found = loaded.run({"retriever": {"query": REQUEST}, "ranker": {"query": REQUEST}})["ranker"]["documents"]
    for document in found:
        print(f"{document.score:.0%} {document.id}: {document.content}")
