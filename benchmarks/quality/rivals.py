"""What a user would do instead: fine-tune the encoder, or adapt the query embeddings of a bigger one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from rabtriever import RetrievalData
from rabtriever.data import dev_queries, train_dev_split, training_queries
from rabtriever.encoders.sentence import SentenceEncoder

STEPS, BATCH, MAX_EPOCHS, LEARNING_RATE = (150, 300), 64, 3, 1e-4
ADAPTER_STEPS, ADAPTER_BATCH, ADAPTER_RATES, SCALE = 1500, 256, (1e-5, 1e-4, 1e-3), 20.0


def fine_tune(encoder: SentenceEncoder, data: RetrievalData, folder: Path) -> Path:
    """Fine-tunes an encoder on train labels by sentence-transformers' own trainer; returns the folder of the result.

    In-batch negatives, no document twice in a batch (MultipleNegativesRankingLoss), 10% warm-up, linear decay.
    """
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.training_args import BatchSamplers

    if (folder / "modules.json").is_file():
        return folder
    split = train_dev_split(data)
    labels = [(data.queries[q], data.documents[d].content) for q, of in training_queries(split).items() for d in of]
    batch = min(BATCH, len({document for _, document in labels}))
    model = SentenceTransformer(str(encoder.model.folder), device="cpu")
    arguments = SentenceTransformerTrainingArguments(
        output_dir=f"{folder}-trainer",
        max_steps=int(np.clip(MAX_EPOCHS * len(labels) // batch, *STEPS)),
        per_device_train_batch_size=batch,
        learning_rate=LEARNING_RATE,
        warmup_steps=0.1,
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    dataset = Dataset.from_dict({"anchor": [q for q, _ in labels], "positive": [d for _, d in labels]})
    SentenceTransformerTrainer(model, arguments, dataset, loss=MultipleNegativesRankingLoss(model)).train()
    model.save_pretrained(str(folder))
    return folder


def fit_adapter(encoder: SentenceEncoder, data: RetrievalData) -> np.ndarray:
    """Fits a linear map of query embeddings, float32 (H, H), to train labels: a softmax over all documents.

    It starts as the identity; dev queries choose the learning rate, and the identity competes.
    """
    split, row_of = train_dev_split(data), {key: row for row, key in enumerate(data.documents)}
    documents = torch.from_numpy(encoder.encode_documents([one.content for one in data.documents.values()]))

    def encoded(of: dict[str, list[str]]) -> tuple[torch.Tensor, list[list[int]]]:
        queries = {query: right for query, right in of.items() if right}
        states = encoder.encode_queries([data.queries[query] for query in queries])
        return torch.from_numpy(states), [[row_of[document] for document in right] for right in queries.values()]

    (train, right), (dev, dev_right) = encoded(training_queries(split)), encoded(dev_queries(split))
    first = torch.tensor([positions[0] for positions in right])

    def recall(matrix: torch.Tensor) -> float:
        found = (dev @ matrix @ documents.T).argmax(1).tolist()
        return float(np.mean([d in positions for d, positions in zip(found, dev_right, strict=True)]))

    generator = torch.Generator().manual_seed(0)
    candidates = [torch.eye(train.shape[1])]
    for learning_rate in ADAPTER_RATES:
        matrix = torch.eye(train.shape[1]).requires_grad_()
        optimizer = torch.optim.AdamW([matrix], lr=learning_rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ADAPTER_STEPS)
        for _ in range(ADAPTER_STEPS):
            rows = torch.randint(len(train), (ADAPTER_BATCH,), generator=generator)
            loss = F.cross_entropy(SCALE * (train[rows] @ matrix @ documents.T), first[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        candidates.append(matrix.detach())
    return max(candidates, key=recall).numpy()
