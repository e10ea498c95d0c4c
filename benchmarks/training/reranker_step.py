"""A step of a reranker's training on a CPU: pairs a second by number format and attention, in one run, taking turns.

python benchmarks/record.py benchmarks/results/training/reranker_step.json python benchmarks/training/reranker_step.py
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from rabtriever import load_data
from rabtriever.llm.prompt import Prompt, PromptTemplate
from rabtriever.training.batches import BatchDataset
from rabtriever.training.config import RerankerTrainingConfig
from rabtriever.training.reranker_trainer import RerankerModule
from rabtriever.training.start import Start

DEMO = Path(__file__).parents[2] / "src/rabtriever/demo"
VARIANTS = [(dtype, attention) for dtype in ("float32", "bfloat16") for attention in ("sdpa", "eager")]
STEPS = 4  # of each; the first warms up


def main() -> None:
    """Prints the medians; ``bfloat16 eager`` is what a training does where the CPU multiplies bfloat16."""
    torch.set_num_threads(1)
    data, config = load_data(DEMO), RerankerTrainingConfig()
    data = replace(data, qrels={"train": data.qrels["test"]})
    dataset, modules = BatchDataset(data, config, {}), {}
    for dtype, attention in VARIANTS:
        model, tokenizer = Start.of("smollm2").load(config, getattr(torch, dtype), "cpu")
        module = RerankerModule(model, Prompt(PromptTemplate(), tokenizer), config.objective)
        model.get_base_model().set_attn_implementation(attention)
        modules[dtype, attention] = module.train()
    speeds: dict[tuple[str, str], list[float]] = {variant: [] for variant in VARIANTS}
    for step in range(STEPS):
        batch = dataset[step]
        for variant, module in modules.items():
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=variant[0] == "bfloat16"):
                loss = module(batch)["loss"]
            loss.backward()
            module.zero_grad()
            if step:
                speeds[variant].append(int(batch.scored.sum()) / (time.perf_counter() - started))
    medians = {" ".join(variant): round(statistics.median(of), 2) for variant, of in speeds.items()}
    print(json.dumps({"threads": 1, "queries": config.queries_per_step, "pairs_per_second": medians}))


if __name__ == "__main__":
    main()
