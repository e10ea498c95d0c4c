"""On-policy distillation: the student ranks, the teacher scores what it ranked, the predictor learns from that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rabtriever.data import RetrievalData, dev_queries, train_dev_split, training_queries
from rabtriever.encoders.llm import LLMEncoder
from rabtriever.errors import InputError
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.calibration import Calibration
from rabtriever.scoring.predictor import Predictor
from rabtriever.training.callbacks import TrainingCallback
from rabtriever.training.config import DistillConfig
from rabtriever.training.encoded_data import EncodedData, EncodedQueries, index_queries
from rabtriever.training.losses import embedding_error, label_loss, log_odds_error, reverse_kl
from rabtriever.training.metrics import collapse_metrics, dev_recall, fresh_pair_pearson, rank_dev_documents
from rabtriever.training.sampling import EXPLORATION_DEPTH, rank_documents, sample_pairs, shuffled_batches
from rabtriever.training.schedule import CALIBRATION_DEPTH, Schedule
from rabtriever.training.teacher_cache import TeacherCache

PAIRS_PER_STEP, LABELLED_QUERIES_PER_STEP = 256, 64


class Distiller:
    """Trains a predictor in rounds: the student ranks, the teacher scores some of what it ranked, the predictor learns.

    Override :meth:`sample_pairs` to change which pairs the teacher scores and :meth:`compute_losses` to change what is
    learnt.

    Args:
        encoder: Makes the embeddings of queries and documents; frozen. They are as wide as the teacher's.
        teacher: The reranker; frozen.
        config: Options; ``pooling`` is the encoder's.
        callbacks: Receive the metrics of each round.

    Attributes:
        data: The data set of the training.
        predictor: The student.
        pairs: int64 (p, 2) of (train query, document), scored so far.
        targets: float32 (p, H), the teacher's context embeddings of them.
        teacher_calls: Pairs of the budget that are spent, calibration included; those in the cache count, too.
        new_teacher_calls: Those of them that were not in the cache.
        log: Metrics of each round.
    """

    def __init__(
        self,
        encoder: LLMEncoder,
        teacher: GenerativeReranker,
        config: DistillConfig | None = None,
        callbacks: Sequence[TrainingCallback] = (),
    ) -> None:
        if encoder.hidden_size != teacher.llm.hidden_size:
            raise InputError(f"encoder: embeddings of {encoder.hidden_size} numbers, the teacher's have another width")
        self.encoder, self.teacher, self.callbacks = encoder, teacher, callbacks
        self.config = config = config or DistillConfig()
        self.weights = {
            "loss/embedding": config.embedding_weight,
            "loss/log_odds": config.log_odds_weight,
            "loss/kl": config.kl_weight,
            "loss/labels": config.label_weight,
        }

    def train(self, data: RetrievalData) -> Rabtriever:
        """Trains a retriever, whose reranker is the teacher with the calibration that was fitted.

        Raises:
            InputError: there is nothing to train on.
        """
        rounds = self.config.rounds
        with torch.random.fork_rng(range(torch.cuda.device_count())):  # the caller's random numbers stay as they are
            torch.manual_seed(self.config.seed)
            self._prepare(data)
            batches = shuffled_batches(len(self.data.train), self.schedule.queries_per_round, self.generator)
            for round_ in range(1, rounds + 1):
                metrics = self._query_teacher(next(batches)) | self._fit(self.schedule.steps_per_round)
                if round_ == rounds:
                    metrics |= self._fit(self.schedule.decay_steps)
                    student_calibration, teacher_calibration = self._fit_calibrations()
                self._report(round_, metrics)
        reranker = GenerativeReranker(self.teacher.llm, teacher_calibration)
        return Rabtriever(self.encoder, self.predictor.cpu(), student_calibration, reranker)

    def sample_pairs(self, queries: Tensor) -> Tensor:
        """Samples the pairs that the teacher scores for train queries int64 (n,); those beyond the budget are cut off.

        Returns:
            int64 (m, 2) of (query, document): none that was scored before, no query with its own document.
        """
        train, count = self.data.train, self.schedule.pairs_per_query
        excluded, depth = torch.cat([train.own_pairs, self.pairs]), max(EXPLORATION_DEPTH, count)
        log_odds, documents = rank_documents(self.preferences, queries, len(self.data.documents), depth, excluded)
        scored = set(map(tuple, self.pairs.tolist()))
        positives = [[d for d in train.positives[q] if (q, d) not in scored] for q in queries.tolist()]
        pairs = sample_pairs(log_odds, documents, positives, count, self.config, self.generator)
        return torch.stack([queries[pairs[:, 0]], pairs[:, 1]], dim=1)

    def preferences(self, queries: Tensor) -> Tensor:
        """Returns what the policy ranks documents by, float (n, k): the student's log-odds, once it has learnt."""
        if not len(self.pairs):  # to random weights, the same few documents would be best for every query
            return torch.rand(len(queries), len(self.data.documents), generator=self.generator)
        return self.predictor.log_odds(self.data.train.states[queries], self.data.z_d)

    def sample_batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns query, document and the teacher's z* of random scored pairs; no pair before any was scored."""
        size = PAIRS_PER_STEP if len(self.pairs) else 0
        rows = torch.randint(max(1, len(self.pairs)), (size,), generator=self.generator)
        return self.pairs[rows, 0], self.pairs[rows, 1], self.targets[rows]

    def compute_losses(self) -> dict[str, Tensor]:
        """Computes the losses on a batch of scored pairs and of labelled queries, by their names in ``weights``."""
        q, d, target = self.sample_batch()
        losses: dict[str, Tensor] = {}
        if len(target):
            predicted, w = self.predictor(self.data.train.states[q], self.data.z_d[d]), self.predictor.choice_direction
            losses["loss/embedding"] = embedding_error(predicted, target, self.predictor.output_scale)
            losses["loss/log_odds"] = log_odds_error(predicted @ w, target @ w)
            if self.config.kl_weight:
                losses["loss/kl"] = reverse_kl(predicted @ w, target @ w)
        return {"loss/labels": self.compute_label_loss(), **losses}

    def compute_label_loss(self) -> Tensor:
        """Returns :func:`label_loss` of random labelled queries; 0 without labels or their weight."""
        if not self.config.label_weight or not len(self.labelled):
            return self.data.z_d.new_zeros(())
        rows = torch.randint(len(self.labelled), (LABELLED_QUERIES_PER_STEP,), generator=self.generator)
        return label_loss(self.predictor, self.data.train.select(self.labelled[rows]), self.data.z_d, self.generator)

    def _prepare(self, data: RetrievalData) -> None:
        """Encodes the data and makes a new student."""
        config, llm = self.config, self.teacher.llm
        self.generator = torch.Generator().manual_seed(config.seed)
        self.cache = TeacherCache(self.teacher)
        self.data = self._encode(train_dev_split(data))
        self.labelled = self.data.train.labelled
        sizes = len(self.data.train), len(self.data.documents), len(self.data.dev)
        self.schedule = Schedule.of(config, *sizes)
        if not self.schedule.training_calls and not len(self.labelled):
            raise InputError(
                f"{data.name}: no labelled train query and no teacher call leave nothing to learn from; raise one",
                param="teacher_calls",
            )
        device = self.data.z_d.device
        self.teacher_calls = self.new_teacher_calls = 0
        self.log: list[dict[str, Any]] = []
        self.pairs = torch.empty(0, 2, dtype=torch.long)
        self.targets = torch.empty(0, llm.hidden_size, device=device)
        shape = llm.hidden_size, config.hidden_units, config.dropout, config.predictor
        self.predictor = Predictor(*shape, llm.choice_direction).eval().to(device)
        self.predictor.fit_normalization("query", self.data.train.states)
        self.predictor.fit_normalization("document", self.data.z_d)
        self.optimizer = torch.optim.AdamW(
            self.predictor.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.learning_rate = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: self.schedule.learning_rate_factor(step, config.rounds)
        )

    def _encode(self, data: RetrievalData) -> EncodedData:
        """Encodes documents and queries, on the device of the teacher."""
        device, documents = self.teacher.llm.backbone.device, [d.content for d in data.documents.values()]

        def encode(queries: Mapping[str, Sequence[str]]) -> EncodedQueries:
            states = self.cache.states(self.encoder, "query", [data.queries[query] for query in queries])
            return index_queries(data, queries, states.to(device), list(data.documents))

        z_d = self.cache.states(self.encoder, "document", documents).to(device)
        train = training_queries(data, self.config.max_labelled_queries or None, self.config.seed)
        return EncodedData(documents, z_d, encode(train), encode(dev_queries(data)))

    def _query_teacher(self, queries: Tensor) -> dict[str, float]:
        """Adds pairs of these queries with the teacher's outputs; returns how well the student foresaw them."""
        remaining = self.schedule.training_calls - self.teacher_calls
        pairs = self.sample_pairs(queries)[:remaining] if remaining > 0 else self.pairs[:0]
        if not len(pairs):
            return {}
        first, targets = not len(self.pairs), self._context_embeddings(self.data.train, pairs)
        self.pairs, self.targets = torch.cat([self.pairs, pairs]), torch.cat([self.targets, targets])
        if first:  # an untrained student foresees nothing
            self.predictor.fit_normalization("output", targets)
            return {}
        return fresh_pair_pearson(self.predictor, self.data, pairs, targets)

    def _context_embeddings(self, queries: EncodedQueries, pairs: Tensor) -> Tensor:
        states, n_new = self.cache.context_embeddings(queries.texts, self.data.documents, pairs)
        self.teacher_calls += len(pairs)
        self.new_teacher_calls += n_new
        return states.to(self.data.z_d.device)

    def _fit(self, n_steps: int) -> dict[str, float]:
        """Trains the predictor for some steps; returns the means of the losses."""
        sums: Counter[str] = Counter()
        self.predictor.train()
        for _ in range(n_steps):
            losses = self.compute_losses()
            self.optimizer.zero_grad()
            torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum().backward()
            torch.nn.utils.clip_grad_norm_(self.predictor.parameters(), 1.0)
            self.optimizer.step()
            self.learning_rate.step()
            sums.update({name: loss.item() for name, loss in losses.items()})
        self.predictor.eval()
        return {name: value / n_steps for name, value in sums.items()}

    def _fit_calibrations(self) -> tuple[Calibration, Calibration]:
        """Fits the student's and the teacher's calibration on the student's best documents of dev queries."""
        dev, n_queries = self.data.dev, min(self.config.calibration_queries, len(self.data.dev))
        queries = torch.linspace(0, len(dev) - 1, n_queries).long()
        log_odds, documents = rank_dev_documents(self.predictor, self.data, queries, CALIBRATION_DEPTH)
        pairs, ranked = torch.stack([queries[:, None].expand_as(documents), documents], dim=2), ~log_odds.isneginf()

        def labels(of: Tensor) -> np.ndarray:
            return np.array([document in dev.positives[query] for query, document in of.tolist()], dtype=bool)

        # The student's log-odds estimate the teacher's, and so do its probabilities.
        prior = self.teacher.calibration if len(self.pairs) else Calibration()
        student = Calibration.fit(log_odds[ranked].numpy(), labels(pairs[ranked]), prior)
        rows = torch.linspace(0, n_queries - 1, self.schedule.calibrated_queries).long()
        scored = pairs[rows][ranked[rows]]
        teachers = self._context_embeddings(dev, scored) @ self.predictor.choice_direction
        return student, Calibration.fit(teachers.cpu().numpy(), labels(scored), self.teacher.calibration)

    def _report(self, round_: int, metrics: dict[str, float]) -> None:
        """Adds metrics of the student to those of a round, logs them and calls the callbacks."""
        metrics |= collapse_metrics(self.predictor, self.data, self.pairs, self.targets)
        metrics |= dev_recall(self.predictor, self.data)
        metrics |= {"teacher_calls": self.teacher_calls, "new_teacher_calls": self.new_teacher_calls}
        self.log.append({"round": round_, **metrics})
        for callback in self.callbacks:
            callback.on_log(round_, metrics)
