"""What the tiny models of the tests have in common."""

import json
from pathlib import Path
from typing import Any

import torch

from rabtriever.data import RetrievalData
from rabtriever.encoders.llm import LLMEncoder
from rabtriever.llm.backbone import MAX_KV_CACHE_BYTES
from rabtriever.llm.loading import load_llm
from rabtriever.llm.prompt import PromptTemplate
from rabtriever.llm.prompted import PromptedLLM
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.predictor import Predictor

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3_text", "mistral")
WORDS = (
    "Document: Query: Relevant? yes no tool weather rain wind city flight hotel recipe cook bread music song play "
    "light lamp turn sponge wipe table a the is of for me my your find show what where how please"
)
TEMPLATE = PromptTemplate(document_tokens=24, query_tokens=24)


def make_reranker(folder: Path, template: PromptTemplate = TEMPLATE, **options: Any) -> GenerativeReranker:
    """A reranker on a saved LLM on the CPU, in float32 unless ``backend`` or ``dtype`` is given."""
    if "backend" not in options:
        options = {"dtype": torch.float32, **options}
    kv_cache_bytes = options.pop("kv_cache_bytes", MAX_KV_CACHE_BYTES)
    return GenerativeReranker(PromptedLLM(load_llm(str(folder), device="cpu", **options), template, kv_cache_bytes))


def make_retriever(reranker: GenerativeReranker, **caches: int) -> Rabtriever:
    """A retriever with a random predictor."""
    torch.manual_seed(0)
    llm = reranker.llm
    predictor = Predictor(llm.hidden_size, hidden_units=16, choice_direction=llm.choice_direction)
    for side in ("query", "document", "output"):
        predictor.fit_normalization(side, torch.randn(50, llm.hidden_size) * 2 + 1)
    return Rabtriever(LLMEncoder(llm), predictor, reranker=reranker, **caches)


def write_beir(folder: Path, data: RetrievalData) -> Path:
    """Writes a data set as a BEIR folder."""
    (folder / "qrels").mkdir(parents=True)
    rows = {
        "corpus": [{"_id": d.id, "title": d.title, "text": d.text} for d in data.documents.values()],
        "queries": [{"_id": query, "text": text} for query, text in data.queries.items()],
    }
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for split, qrels in data.qrels.items():
        lines = [f"{q}\t{d}\t{grade}\n" for q, grades in qrels.items() for d, grade in grades.items()]
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder
