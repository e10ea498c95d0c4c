"""On-policy distillation: the student ranks, the teacher scores what it ranked, the predictor learns from that."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rabtriever.data import RetrievalData
from rabtriever.encoders.llm import LLMEncoder
from rabtriever.errors import InputError
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.calibration import Calibration
from rabtriever.scoring.predictor import Predictor
from rabtriever.training.calibrate import fit_calibrations
from rabtriever.training.callbacks import TrainingCallback
from rabtriever.training.config import DistillConfig
from rabtriever.training.encoded_data import EncodedData, encode_data
from rabtriever.training.losses import DistillLoss, Losses, label_loss
from rabtriever.training.metrics import collapse_metrics, dev_recall, fresh_pair_pearson
from rabtriever.training.sampling import EXPLORATION_DEPTH, rank_documents, sample_pairs, shuffled_batches
from rabtriever.training.schedule import Schedule
from rabtriever.training.teacher_cache import TeacherCache

PAIRS_PER_STEP, LABELLED_QUERIES_PER_STEP = 256, 64


class Distiller:
    """Trains a predictor in rounds: the student ranks, the teacher scores some of what it ranked, the predictor learns.

    Override :meth:`sample_pairs` to change which pairs the teacher scores and :meth:`compute_loss` to change what is
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

    data: EncodedData
    predictor: Predictor
    pairs: Tensor
    targets: Tensor

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
        self.config = config or DistillConfig()
        self.loss = DistillLoss(self.config)
        self.teacher_calls = self.new_teacher_calls = 0
        self.log: list[dict[str, Any]] = []

    def train(self, data: RetrievalData) -> Rabtriever:
        """Trains a retriever, whose reranker is the teacher with the calibration that was fitted.

        Raises:
            InputError: there is nothing to train on.
        """
        with torch.random.fork_rng(range(torch.cuda.device_count())):  # the caller's random numbers stay as they are
            torch.manual_seed(self.config.seed)
            self._prepare(data)
            batches = shuffled_batches(len(self.data.train), self.schedule.queries_per_round, self.generator)
            for round_, queries in enumerate(itertools.islice(batches, self.config.rounds), start=1):
                metrics = self._query_teacher(queries)
                metrics |= self._fit(self.schedule.steps_per_round)
                if round_ == self.config.rounds:
                    metrics |= self._fit(self.schedule.decay_steps)
                    calibrations = self._fit_calibrations()
                self._report(round_, metrics)
        reranker = GenerativeReranker(self.teacher.llm, calibrations[1])
        return Rabtriever(self.encoder, self.predictor.cpu(), calibrations[0], reranker)

    def sample_pairs(self, queries: Tensor) -> Tensor:
        """Samples the pairs that the teacher scores; those beyond the budget are cut off.

        Args:
            queries: int64 (n,), positions of train queries.

        Returns:
            int64 (m, 2) of (query, document): none that was scored before, no query with its own document.
        """
        train, count = self.data.train, self.schedule.pairs_per_query
        excluded, depth = torch.cat([train.own_pairs, self.pairs]), max(EXPLORATION_DEPTH, count)
        log_odds, documents = rank_documents(self.preferences, queries, len(self.data.documents), depth, excluded)
        scored = set(map(tuple, self.pairs.tolist()))
        positives = [[d for d in train.positives[q] if (q, d) not in scored] for q in queries.tolist()]
        pairs = sample_pairs(
            log_odds,
            documents,
            positives,
            count,
            exploration=self.config.exploration,
            temperature=self.config.temperature,
            generator=self.generator,
        )
        return torch.stack([queries[pairs[:, 0]], pairs[:, 1]], dim=1)

    def preferences(self, queries: Tensor) -> Tensor:
        """Returns what the policy ranks documents by, float (n, k): the student's log-odds, once it has learnt."""
        if not len(self.pairs):  # to random weights, the same few documents would be best for every query
            return torch.rand(len(queries), len(self.data.documents), generator=self.generator)
        return self.predictor.log_odds(self.data.train.states[queries], self.data.z_d)

    def compute_loss(self) -> Losses:
        """Computes the losses on a batch of scored pairs and, with labels, on a batch of labelled queries."""
        q, d, target = self.sample_batch()
        predicted = self.predictor(self.data.train.states[q], self.data.z_d[d])
        return self.loss(self.predictor, predicted, target, self.compute_label_loss())

    def sample_batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns query, document and the teacher's z* of random scored pairs; no pair before any was scored."""
        size = PAIRS_PER_STEP if len(self.pairs) else 0
        rows = torch.randint(max(1, len(self.pairs)), (size,), generator=self.generator)
        return self.pairs[rows, 0], self.pairs[rows, 1], self.targets[rows]

    def compute_label_loss(self) -> Tensor:
        """Returns :func:`label_loss` of random labelled queries; 0 without labels or their weight."""
        train = self.data.train
        if not self.config.label_weight or not len(self.labelled):
            return train.states.new_zeros(())
        rows = torch.randint(len(self.labelled), (LABELLED_QUERIES_PER_STEP,), generator=self.generator)
        chosen = self.labelled[rows].tolist()
        positives, own = [train.positives[query] for query in chosen], [train.own_documents[query] for query in chosen]
        return label_loss(self.predictor, train.states[chosen], self.data.z_d, positives, self.generator, own)

    def _prepare(self, data: RetrievalData) -> None:
        """Encodes the data and makes a new student."""
        config, llm = self.config, self.teacher.llm
        self.generator = torch.Generator().manual_seed(config.seed)
        self.cache = TeacherCache(self.teacher)
        self.data = encode_data(data, self.encoder, self.cache, config)
        self.labelled = self.data.train.labelled
        sizes = len(self.data.train), len(self.data.documents), len(self.data.dev)
        self.schedule = Schedule.of(config, *sizes)
        if not self.schedule.training_calls and not len(self.labelled):
            raise InputError(
                f"{data.name}: no labelled train query and no teacher call leave nothing to learn from; raise one",
                param="teacher_calls",
            )
        device = self.data.z_d.device
        self.teacher_calls, self.new_teacher_calls, self.log = 0, 0, []
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

    def _query_teacher(self, queries: Tensor) -> dict[str, float]:
        """Adds pairs of these queries with the teacher's outputs; returns how well the student foresaw them."""
        remaining = self.schedule.training_calls - self.teacher_calls
        pairs = self.sample_pairs(queries)[:remaining] if remaining > 0 else self.pairs[:0]
        if not len(pairs):
            return {}
        first, train = not len(self.pairs), self.data.train
        targets = self._context_embeddings(train.texts, pairs)
        self.pairs, self.targets = torch.cat([self.pairs, pairs]), torch.cat([self.targets, targets])
        if first:  # an untrained student foresees nothing
            self.predictor.fit_normalization("output", targets)
            return {}
        return fresh_pair_pearson(self.predictor, train.states[pairs[:, 0]], self.data.z_d[pairs[:, 1]], targets)

    def _context_embeddings(self, texts: list[str], pairs: Tensor) -> Tensor:
        states, n_new = self.cache.context_embeddings(texts, self.data.documents, pairs)
        self.teacher_calls += len(pairs)
        self.new_teacher_calls += n_new
        return states.to(self.data.z_d.device)

    def _fit(self, n_steps: int) -> dict[str, float]:
        """Trains the predictor for some steps; returns the means of the losses."""
        sums: dict[str, float] = defaultdict(float)
        self.predictor.train()
        for _ in range(n_steps):
            total, terms = self.compute_loss()
            self.optimizer.zero_grad()
            total.backward()
            torch.nn.utils.clip_grad_norm_(self.predictor.parameters(), 1.0)
            self.optimizer.step()
            self.learning_rate.step()
            for name, term in terms.items():
                sums[name] += term.item()
        self.predictor.eval()
        return {name: value / n_steps for name, value in sums.items()}

    def _fit_calibrations(self) -> tuple[Calibration, Calibration]:
        w = self.predictor.choice_direction
        return fit_calibrations(
            self.predictor,
            self.data,
            self.config.calibration_queries,
            self.schedule.calibrated_queries,
            # The student's log-odds estimate the teacher's, and so do its probabilities.
            (self.teacher.calibration if len(self.pairs) else Calibration(), self.teacher.calibration),
            lambda pairs: (self._context_embeddings(self.data.dev.texts, pairs) @ w).cpu().numpy(),
        )

    def _report(self, round_: int, metrics: Mapping[str, float]) -> None:
        """Adds metrics of the student to those of a round, logs them and calls the callbacks."""
        data = self.data
        student = collapse_metrics(self.predictor, data.train.states, data.z_d, self.pairs, self.targets)
        student |= dev_recall(self.predictor, data.z_d, data.dev)
        calls = {"teacher_calls": self.teacher_calls, "new_teacher_calls": self.new_teacher_calls}
        self.log.append({"round": round_, **metrics, **student, **calls})
        for callback in self.callbacks:
            callback.on_log(round_, {**metrics, **student, **calls})
