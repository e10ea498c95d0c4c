"""The baseline of a retriever: the same LLM as a bi-encoder, by RepLLaMA's recipe (arXiv 2310.08319).

LoRA, InfoNCE over in-batch documents and one negative a query mined by BM25, cosine of last-token states with a
temperature. The adapter covers the same layers with the same rank as the reranker's.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from bm25 import BM25S
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from rabtriever.data import RetrievalData, train_dev_split
from rabtriever.llm.backbone import Backbone
from rabtriever.llm.loading import load_base, native_dtype
from rabtriever.llm.prompt import Prompt, PromptTemplate
from rabtriever.llm.torch_engine import TorchEngine
from rabtriever.persistence.folder import ADAPTER, atomic_folder, write_config

TEMPLATE = PromptTemplate(document="Document: {document}\nEmbedding:", query="Query: {query}\nEmbedding:")


@dataclass(frozen=True)
class Settings:
    """Of the training; the defaults are RepLLaMA's where a small LLM on few data allows."""

    max_labelled_queries: int = 8192  # each drawn once an epoch
    steps: int = 128
    batch: int = 64
    learning_rate: float = 3e-4
    temperature: float = 0.05
    lora_rank: int = 16
    lora_depth: float = 0.67
    query_tokens: int = 224
    seed: int = 0


def train(data: RetrievalData, out: Path, settings: Settings) -> None:
    """Trains a bi-encoder and writes its adapter to ``out``."""
    torch.manual_seed(settings.seed)
    base, tokenizer = load_base("smollm2")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base.to(device=device, dtype=native_dtype(device)).requires_grad_(False)
    layers = base.config.num_hidden_layers
    first = layers - round(layers * settings.lora_depth)
    decoder = base.get_decoder()
    products = {n.rpartition(".")[2] for n, part in decoder.named_modules() if isinstance(part, torch.nn.Linear)}
    lora = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=2 * settings.lora_rank,
        target_modules=sorted(products),
        layers_to_transform=list(range(first, layers)),
    )
    model = get_peft_model(base, lora)
    trained = [weight.requires_grad_() for name, weight in model.named_parameters() if "lora_" in name]
    for weight in trained:
        weight.data = weight.data.float()
    prompt = _prompt(tokenizer, settings.query_tokens)
    engine = TorchEngine(model.get_base_model())
    optimiser = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=settings.steps, pct_start=0.1
    )
    log = []
    for step, (queries, documents, relevant) in enumerate(_batches(data, settings), 1):
        with torch.autocast(device, dtype=torch.bfloat16, enabled=native_dtype(device) == torch.bfloat16):
            states = engine.encode(prompt.query_ids(queries, with_bos=True) + prompt.document_ids(documents))
        z = torch.nn.functional.normalize(states.float(), dim=1)
        scores = z[: len(queries)] @ z[len(queries) :].T / settings.temperature
        relevant = relevant.to(scores.device)
        loss = (scores.logsumexp(1) - scores.masked_fill(~relevant, float("-inf")).logsumexp(1)).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        accuracy = relevant.gather(1, scores.argmax(1, keepdim=True)).float().mean()
        log.append({"step": step, "loss": round(loss.item(), 4), "accuracy": round(accuracy.item(), 4)})
        if step % 10 == 0:
            print(json.dumps(log[-1]), file=sys.stderr, flush=True)
    with atomic_folder(out) as folder:
        model.save_pretrained(str(folder / ADAPTER), save_embedding_layers=False)
        (folder / ADAPTER / "README.md").unlink(missing_ok=True)
        (folder / "train_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
        write_config(folder, {"llm": "smollm2", "prompt": prompt.template.to_dict(), "data": data.name}, out.name)


class BiEncoder:
    """A trained bi-encoder: cosine of last-token states."""

    def __init__(self, folder: Path, query_tokens: int = 224) -> None:
        base, tokenizer = load_base("smollm2")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        merged = PeftModel.from_pretrained(base, str(folder / ADAPTER)).merge_and_unload()
        merged = merged.to(device=device, dtype=native_dtype(device)).eval()
        self.backbone = Backbone(merged, lambda: TorchEngine(merged))
        self.prompt = _prompt(tokenizer, query_tokens)

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> Tensor:
        """Returns cosines (n, k)."""
        z_q = self.backbone.states(self.prompt.query_ids(queries, with_bos=True), "last")
        z_d = self.backbone.states(self.prompt.document_ids(documents), "last")
        return torch.nn.functional.normalize(z_q, dim=1) @ torch.nn.functional.normalize(z_d, dim=1).T


def _prompt(tokenizer: object, query_tokens: int) -> Prompt:
    return Prompt(PromptTemplate.from_dict({**TEMPLATE.to_dict(), "query_tokens": query_tokens}), tokenizer)  # type: ignore[arg-type]


def _batches(data: RetrievalData, settings: Settings):  # noqa: ANN202
    """Yields each step's queries, documents (deduplicated) and which of them are relevant."""
    rng = random.Random(settings.seed)
    data = train_dev_split(data)
    positives = data.positives("train", settings.max_labelled_queries, settings.seed)
    bm25 = BM25S([document.content for document in data.documents.values()])
    ids, queue = list(data.documents), []
    for _ in range(settings.steps):
        while len(queue) < settings.batch:
            queue += rng.sample(list(positives), len(positives))
        queries, queue = queue[: settings.batch], queue[settings.batch :]
        documents = {}
        for query in queries:
            documents[rng.choice(positives[query])] = None
            negatives = [ids[i] for i in (-bm25.scores(data.queries[query])).argsort()[:20]]
            negatives = [d for d in negatives if d not in positives[query] and not data.is_own_document(query, d)]
            documents[rng.choice(negatives or ids)] = None
        relevant = torch.tensor([[document in positives[query] for document in documents] for query in queries])
        yield [data.queries[q] for q in queries], [data.documents[d].content for d in documents], relevant
