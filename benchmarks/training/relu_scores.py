"""A training step's scores and their derivatives: the kernel beside torch's operations, in one run, taking turns.

python benchmarks/record.py benchmarks/results/training/relu_scores.json python benchmarks/training/relu_scores.py
"""

from __future__ import annotations

import json
import statistics
import time

import torch
from torch import Tensor

from rabtriever.kernels.relu_scores import relu_scores

QUERIES, UNITS, DOCUMENTS, REPEATS = 64, 256, (64, 150, 1024), 15


def of_torch(a: Tensor, b: Tensor, v: Tensor) -> Tensor:
    """The same by torch, with all units of a block of documents in memory."""
    return torch.cat([torch.relu(a[:, None] + block) @ v for block in b.split(512)], dim=1)


def main() -> None:
    """Prints the medians."""
    rivals = {"kernel": relu_scores, "torch": of_torch}
    rows = []
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        for documents in DOCUMENTS:
            shapes = ((QUERIES, UNITS), (documents, UNITS), (UNITS,))
            inputs = [torch.randn(shape).requires_grad_() for shape in shapes]
            weights = torch.randn(QUERIES, documents)
            seconds: dict[str, list[float]] = {name: [] for name in rivals}
            for repeat in range(REPEATS + 1):
                for name, function in rivals.items():
                    started = time.perf_counter()
                    torch.autograd.grad((function(*inputs) * weights).sum(), inputs)
                    if repeat:
                        seconds[name].append(time.perf_counter() - started)
            milliseconds = {name: round(1000 * statistics.median(values), 2) for name, values in seconds.items()}
            ratio = round(milliseconds["torch"] / milliseconds["kernel"], 1)
            rows.append({"threads": threads, "documents": documents, "ms": milliseconds, "torch_over_kernel": ratio})
    print(json.dumps({"queries": QUERIES, "units": UNITS, "rows": rows}))


if __name__ == "__main__":
    main()
