"""What a user would do instead: fine-tune the encoder, or adapt the query embeddings of a bigger one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from rabtriever import RetrievalData
from rabtriever.data import train_dev_split, training_queries
from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.training.encoded_data import encode_data

MAX_TOKENS = {"metatool": 96}  # the longest of a batch sets its cost; one query in 300 there is longer
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
    trained_length = model.max_seq_length
    model.max_seq_length = MAX_TOKENS.get(data.name, trained_length)
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
    model.max_seq_length = trained_length
    model.save_pretrained(str(folder))
    return folder


def fit_adapter(encoder: SentenceEncoder, data: RetrievalData) -> np.ndarray:
    """Fits a linear map of query embeddings, float32 (H, H), to train labels: a softmax over all documents.

    It starts as the identity; dev queries choose the learning rate, and the identity competes.
    """
    encoded = encode_data(data, encoder, None, 0)
    train, documents, dev = encoded.train.states, encoded.z_d, encoded.dev
    first = torch.tensor([relevant[0] for relevant in encoded.train.positives])

    def recall(matrix: torch.Tensor) -> float:
        found = (dev.states @ matrix @ documents.T).argmax(1).tolist()
        return float(np.mean([d in relevant for d, relevant in zip(found, dev.positives, strict=True)]))

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
