"""What the tiny models of the tests have in common."""

from pathlib import Path

import torch

from rabtriever.llm.loading import load_llm
from rabtriever.llm.prompt import PromptTemplate
from rabtriever.predictor import Predictor
from rabtriever.reranker import GenerativeReranker
from rabtriever.retriever import Rabtriever

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3_text", "mistral")
WORDS = (
    "Document: Query: Relevant? yes no tool weather rain wind city flight hotel recipe cook bread music song play "
    "light lamp turn sponge wipe table a the is of for me my your find show what where how please"
)
TEMPLATE = PromptTemplate(document_tokens=24, query_tokens=24)


def make_reranker(folder: Path) -> GenerativeReranker:
    """A reranker on a saved LLM, in float32 on the CPU."""
    return GenerativeReranker(load_llm(str(folder), dtype=torch.float32, device="cpu"), TEMPLATE)


def make_retriever(reranker: GenerativeReranker) -> Rabtriever:
    """A retriever with a random predictor."""
    torch.manual_seed(0)
    predictor = Predictor(reranker.backbone.hidden_size, width=16)
    for side in ("query", "document", "output"):
        predictor.standardise(side, torch.randn(50, reranker.backbone.hidden_size) * 2 + 1)
    return Rabtriever(reranker, predictor)
