"""Tuning an encoder's own weights on what the teacher says, before a predictor is trained over it."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rabtriever.encoders.base import Encoder
from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.errors import InputError
from rabtriever.persistence.folder import ENCODER, atomic_folder
from rabtriever.progress import track
from rabtriever.rerankers.base import Reranker
from rabtriever.training import processes
from rabtriever.training.callbacks import TrainingCallback
from rabtriever.training.config import TuneEncoderConfig
from rabtriever.training.encoded_data import EncodedData, EncodedQueries
from rabtriever.training.metrics import dev_recall
from rabtriever.training.start import checkpoint_dir
from rabtriever.training.tuned_model import TunedModel, save_interpolated
from rabtriever.training.tuning_batches import TuningBatches

if TYPE_CHECKING:
    from rabtriever.training.distiller import Distiller

ALPHAS = (0.5, 1.0)  # shares of the tuned weights that compete with the original ones
CHECKPOINT = "tuning.safetensors"
CHECKPOINT_EVERY = 50  # steps; the documents that hard negatives are drawn from are encoded anew as often
LOG_EVERY = 10
WARMUP_SHARE = 0.1  # of the steps
MAX_HELD_OUT = 300  # requests for documents that were not tuned on


@dataclass(frozen=True)
class TunedEncoder:
    """What :func:`tune_encoder` made.

    Attributes:
        encoder: The encoder with the chosen weights: the original itself if ``alpha`` is 0, else one whose folder lies
            in ``<out>.partial`` and is copied into a retriever that is saved.
        alpha: Share of the tuned weights in them; the rest is the original's.
        recalls: ``alpha`` -> R@1 of ``dev`` queries and of requests for ``new`` documents.
    """

    encoder: SentenceEncoder
    alpha: float
    recalls: Mapping[float, Mapping[str, float]] = field(hash=False)

    def to_config(self) -> dict[str, Any]:
        """Returns what ``rabtriever.json`` notes of it."""
        return {"alpha": self.alpha, "R@1": {str(alpha): dict(values) for alpha, values in self.recalls.items()}}


def tune_encoder(distiller: Distiller, out: str | Path, config: TuneEncoderConfig | None = None) -> TunedEncoder:
    """Tunes the weights of a sentence-transformers encoder on what a distillation's predictor learns from.

    The loss is the cross-entropy of softmax(beta <e_q, e_d>) over a step's documents with the teacher's softmax, or
    with the labels of queries that have some. The tuned weights are then interpolated with the original ones, weight by
    weight: alpha x tuned + (1 - alpha) x original. Alpha is chosen among 0, 1/2 and 1:

    - A tenth of the documents, by a hash of their texts, and all train requests for them are left out of the tuning. An
      alpha whose R@1 on these requests, with all documents competing, falls below the original encoder's is out: it
      would serve documents badly that come later.
    - Of the rest, the one with the highest R@1 on the dev queries. Of equal ones the smallest, so 0 keeps ties.

    Dev queries and requests without labels are judged by the teacher. Checkpoints are in ``<out>.partial``; the same
    call goes on from the last, to the same result.

    Args:
        distiller: Prepared: its encoder, data, targets, and who hears of the metrics.
        out: Folder that the retriever will be saved in.
        config: Options; the defaults if None.

    Raises:
        InputError: the encoder is no sentence-transformers model, nothing is left to tune on or to choose by, or an
            interrupted tuning there had other options, data or models.
    """
    encoder, config = require_tunable(distiller.encoder), config or TuneEncoderConfig()
    if not len(distiller.data.dev):
        raise InputError(
            "tune_encoder: no held-out query to choose by; add queries or teacher calls", param="tune_encoder"
        )
    batches = TuningBatches(distiller.data, distiller.targets, distiller.listed, config)
    (partial,) = processes.shared(lambda: [checkpoint_dir(out, _describe_run(distiller, config))])
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # the caller's random numbers stay as they are
        weights = _train(encoder, batches, config, partial / CHECKPOINT, distiller.callbacks)
    folders = processes.shared(lambda: _save_interpolated(encoder, weights, partial))
    encoders = {0.0: encoder, **{alpha: encoder.moved(made) for alpha, made in zip(ALPHAS, folders, strict=True)}}
    data, new = distiller.data, batches.held_out(MAX_HELD_OUT)
    recalls = processes.first(lambda: {alpha: _measure(one, data, new) for alpha, one in encoders.items()})
    alpha = choose_alpha(recalls)
    shown = {f"encoder/{name}/{alpha:g}": value for alpha, found in recalls.items() for name, value in found.items()}
    _report(distiller.callbacks, config.steps, {**shown, "encoder/alpha": alpha})
    return TunedEncoder(encoders[alpha], alpha, recalls)


def require_tunable(encoder: Encoder) -> SentenceEncoder:
    """Returns an encoder whose weights can be tuned; an InputError names any other."""
    if not isinstance(encoder, SentenceEncoder):
        name = encoder.describe()["name"]
        fault = f"tune_encoder: {name} is no sentence-transformers model"
        raise InputError(f"{fault}; give another encoder", param="encoder")
    return encoder


def choose_alpha(recalls: Mapping[float, Mapping[str, float]]) -> float:
    """Returns the share of the tuned weights, as :func:`tune_encoder` says; ``recalls`` as in :class:`TunedEncoder`."""
    allowed = [alpha for alpha, found in recalls.items() if found["new"] >= recalls[0.0]["new"]]
    return max(sorted(allowed), key=lambda alpha: recalls[alpha]["dev"])


def dropout_seed(seed: int, step: int) -> int:
    """Returns a step's seed: resumed, a process draws what it would have drawn, and each process its own."""
    return 1_000_003 * seed + processes.count() * step + processes.rank()


def _train(
    encoder: SentenceEncoder,
    batches: TuningBatches,
    config: TuneEncoderConfig,
    checkpoint: Path,
    callbacks: Sequence[TrainingCallback],
) -> dict[str, Tensor]:
    """Returns all weights after the last step, name -> tensor."""
    torch.manual_seed(config.seed)  # of an adapter's first weights
    model = TunedModel(encoder, config)
    optimizer = torch.optim.AdamW(model.trained.values(), weight_decay=0.01)
    first = model.load_checkpoint(checkpoint, optimizer)
    losses: list[float] = []
    model.modules.train()
    for step in track(range(first, config.steps), "tuning the encoder"):
        if step % CHECKPOINT_EVERY == 0:
            if step > first and processes.rank() == 0:
                model.save_checkpoint(checkpoint, optimizer, step)
            batches.refresh(model, step)
        for group in optimizer.param_groups:
            group["lr"] = config.peak_learning_rate * _learning_rate_factor(step, config.steps)
        torch.manual_seed(dropout_seed(config.seed, step))
        loss = batches.loss(model, step)
        optimizer.zero_grad()
        loss.backward()
        processes.sum_gradients(model.trained.values())
        torch.nn.utils.clip_grad_norm_(model.trained.values(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % LOG_EVERY == 0 or step + 1 == config.steps:
            _report(callbacks, step + 1, {"encoder/loss": sum(losses) / len(losses)})
            losses = []
    if first < config.steps and processes.rank() == 0:
        model.save_checkpoint(checkpoint, optimizer, config.steps)
    return model.merge()


def _save_interpolated(encoder: SentenceEncoder, weights: dict[str, Tensor], partial: Path) -> list[Path]:
    """Writes the encoders that compete with the original one; returns their folders, one for each of the ALPHAS."""
    folders = [partial / f"{ENCODER}-{alpha:g}" for alpha in ALPHAS]
    for alpha, made in zip(ALPHAS, folders, strict=True):
        shutil.rmtree(made, ignore_errors=True)
        with atomic_folder(made) as folder:
            save_interpolated(encoder.model, weights, alpha, folder)
    return folders


def _measure(encoder: SentenceEncoder, data: EncodedData, new: EncodedQueries) -> dict[str, float]:
    """Returns R@1 of dev queries and of the requests for ``new`` documents, which all documents compete for."""
    z_d = torch.from_numpy(encoder.encode_documents(data.documents))
    recalls = {}
    for name, queries in (("dev", data.dev), ("new", new)):
        states = torch.from_numpy(encoder.encode_queries(queries.texts))
        measured = replace(data, z_d=z_d, dev=replace(queries, states=states))
        recalls[name] = dev_recall(lambda q, d: q @ d.T, measured).get("dev/R@1", 0.0)
    return recalls


def _learning_rate_factor(step: int, steps: int) -> float:
    """Returns the share of the peak learning rate at a step: warm-up, then a cosine to zero."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _describe_run(distiller: Distiller, config: TuneEncoderConfig) -> dict[str, Any]:
    """Returns what a tuning must have in common with the interrupted one that it goes on with."""
    data, teacher = distiller.data, distiller.teacher
    named: list[tuple[Encoder | Reranker, float]] = [*teacher.encoders, *teacher.rerankers]
    models = [[model.fingerprint, weight] for model, weight in named]
    contents = [data.documents, data.train.texts, data.train.positives, data.dev.texts, models]
    digest = hashlib.sha256(json.dumps(contents).encode("utf-8", "surrogatepass")).hexdigest()
    return {"encoder": distiller.encoder.fingerprint, "tuning": asdict(config), "digest": digest}


def _report(callbacks: Sequence[TrainingCallback], step: int, metrics: Mapping[str, float]) -> None:
    for callback in callbacks:
        callback.on_log(step, metrics)
