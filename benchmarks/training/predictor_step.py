"""A step of a distillation's predictor with all of its queries and with half: what dividing them would save.

python benchmarks/record.py benchmarks/results/training/predictor_step.json python benchmarks/training/predictor_step.py
"""

from __future__ import annotations

import json
import statistics
import time

import torch
import torch.nn.functional as F

from rabtriever.scoring.predictor import Predictor
from rabtriever.training.student import Student

WIDTHS = {"MiniLM": 384, "LLM": 2048}
DOCUMENTS, QUERIES = (64, 1024), (64, 32)
REPEATS = 15


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for name, width in WIDTHS.items():
        for n_documents in DOCUMENTS:
            z_d = F.normalize(torch.randn(n_documents, width), dim=1)
            student = Student(Predictor(width, 256, 0.2, "mlp", torch.ones(1), 1), 20.0).train()
            optimizer = torch.optim.AdamW(student.parameters())
            times: dict[int, list[float]] = {n: [] for n in QUERIES}
            for _ in range(REPEATS):
                for n in QUERIES:  # taking turns
                    started = time.process_time()
                    _step(student, optimizer, F.normalize(torch.randn(n, width), dim=1), z_d)
                    times[n].append(1e3 * (time.process_time() - started))
            whole, half = (statistics.median(times[n][2:]) for n in QUERIES)
            rows.append(
                {
                    "encoder": name,
                    "documents": n_documents,
                    "ms": round(whole, 2),
                    "ms_half": round(half, 2),
                    "share": round(half / whole, 2),
                    "weights": sum(weight.numel() for weight in student.parameters()),
                }
            )
    print(json.dumps(rows))


def _step(student: Student, optimizer: torch.optim.Optimizer, z_q: torch.Tensor, z_d: torch.Tensor) -> None:
    """A list loss and a label loss, as in distiller.py."""
    target = torch.randn(len(z_q), len(z_d)).softmax(1)
    loss = sum(F.cross_entropy(student.log_odds(z_q, z_d), target) for _ in range(2))
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()


if __name__ == "__main__":
    main()
