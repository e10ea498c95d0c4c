"""On-policy distillation: the student ranks, the teacher scores what it ranked, the predictor learns from that."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rabtriever.data import RetrievalData
from rabtriever.encoders.base import Encoder
from rabtriever.errors import InputError
from rabtriever.progress import track
from rabtriever.rerankers.store import ScoreStore
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.examples import Examples
from rabtriever.scoring.fusion import Fusion, text_keys
from rabtriever.scoring.predictor import Predictor
from rabtriever.training import new_documents, processes
from rabtriever.training.cached_teacher import CachedTeacher
from rabtriever.training.callbacks import TrainingCallback
from rabtriever.training.config import DistillConfig
from rabtriever.training.encoded_data import EncodedData, encode_data
from rabtriever.training.losses import embedding_error, label_loss, list_loss, log_odds_error, reverse_kl
from rabtriever.training.metrics import collapse_metrics, dev_recall, fresh_pair_pearson
from rabtriever.training.new_documents import Setting, Trial
from rabtriever.training.query_adapter import fit_query_adapter
from rabtriever.training.sampling import EXPLORATION_DEPTH, rank_documents, sample_pairs, shuffled_batches
from rabtriever.training.schedule import Schedule
from rabtriever.training.selection import choose_beta, choose_gain, fit_calibrations, label_by_teacher, tolerance
from rabtriever.training.student import Student, training_gains
from rabtriever.training.targets import Targets
from rabtriever.training.teacher import Teacher
from rabtriever.training.weights import weigh_teacher

PAIRS_PER_STEP, QUERIES_PER_STEP = 256, 64
PATIENCE, MIN_STOPPING_QUERIES = 3, 100  # rounds without a better student, over so many queries, end a training


class Distiller:
    """Trains a predictor in rounds: the student ranks, the teacher scores some of what it ranked, the predictor learns.

    Processes that a launcher starts divide what models compute: the teacher's reading, states of texts. A step of the
    predictor every one takes alike: most of it is the documents' side, which all queries of the step share, so that
    dividing the queries would save less than exchanging the gradients costs.

    Override :meth:`sample_pairs` to change which pairs rerankers read and :meth:`compute_losses` to change what is
    learnt.

    Args:
        encoder: Makes the embeddings of queries and documents; frozen.
        teacher: Encoders and rerankers; frozen.
        config: Options.
        callbacks: Receive the metrics of each round, in the first process.
        scores: Scores of `rabtriever judge`, which no reranker is asked for again.

    Attributes:
        data: The data set of the training.
        student: The encoder's similarity and the predictor in training.
        targets: What the teacher has said so far.
        cached_teacher: The teacher behind its caches; counts its ``calls`` and the ``new_calls`` among them.
        log: Metrics of each round.
    """

    def __init__(
        self,
        encoder: Encoder,
        teacher: Teacher,
        config: DistillConfig | None = None,
        callbacks: Sequence[TrainingCallback] = (),
        scores: ScoreStore | None = None,
    ) -> None:
        self.encoder, self.teacher, self.scores = encoder, teacher, scores
        self.callbacks = callbacks if processes.rank() == 0 else ()
        self.config = config = (config or DistillConfig()).resolve(encoder.has_similarity or bool(teacher.encoders))
        self.weights = {
            "loss/embedding": config.embedding_weight,
            "loss/log_odds": config.log_odds_weight,
            "loss/kl": config.kl_weight,
            "loss/list": config.list_weight,
            "loss/labels": config.label_weight,
        }

    @property
    def documents_stay(self) -> bool:
        """Whether no documents will come but those of the training."""
        return self.config.new_document_gain == 1

    def train(self, data: RetrievalData, known: Targets | None = None) -> Rabtriever:
        """Trains a retriever, whose reranker is the teacher's with the calibration that was fitted.

        Over an encoder with a similarity, the untrained retriever competes with every round's, and keeps ties.

        Args:
            data: Documents and queries.
            known: What the teacher said of this data in an earlier distillation; its pairs are not read again.

        Raises:
            InputError: there is nothing to train on.
        """
        with torch.random.fork_rng(range(torch.cuda.device_count())):  # the caller's random numbers stay as they are
            torch.manual_seed(self.config.seed)
            self.prepare(data)
            if known is not None and len(known.pairs):
                self._learn_pairs(known.pairs, known.log_odds, known.states)
            self._train_rounds()
            return self._make_retriever()

    def sample_pairs(self, queries: Tensor) -> Tensor:
        """Samples the pairs that rerankers read for train queries int64 (n,); those beyond the budget are cut off.

        Returns:
            int64 (m, 2) of (query, document): none that was read before, no query with its own document.
        """
        train, count, pairs = self.data.train, self.schedule.pairs_per_query, self.targets.pairs
        excluded, depth = torch.cat([train.own_pairs, pairs]), max(EXPLORATION_DEPTH, count)
        log_odds, documents = rank_documents(self.preferences, queries, len(self.data.documents), depth, excluded)
        read = set(map(tuple, pairs.tolist()))
        positives = [[d for d in train.positives[q] if (q, d) not in read] for q in queries.tolist()]
        sampled = sample_pairs(log_odds, documents, positives, count, self.config, self.generator)
        return torch.stack([queries[sampled[:, 0]], sampled[:, 1]], dim=1)

    def preferences(self, queries: Tensor) -> Tensor:
        """Returns what the policy ranks documents by, float (n, k): the student's log-odds, once it has any."""
        if not self.student.beta and not len(self.targets.pairs):
            # To random weights, the same few documents would be best for every query.
            return torch.rand(len(queries), len(self.data.documents), generator=self.generator)
        return self.student.log_odds(self.data.train.states[queries], self.data.z_d)

    def compute_losses(self) -> dict[str, Tensor]:
        """Computes the losses on a batch, by their names in ``weights``; those without weight or data are left out."""
        losses = self.compute_pair_losses() if len(self.targets.pairs) and self.targets.states.shape[1] else {}
        if self.config.list_weight and len(self.listed):
            losses["loss/list"] = self.compute_list_loss()
        if self.config.label_weight and len(self.labelled):
            rows = self.labelled[torch.randint(len(self.labelled), (QUERIES_PER_STEP,), generator=self.generator)]
            queries, among = self.data.train.select(rows), self.labelled_among
            smoothing = (self._smoothing(rows), self.config.label_smoothing) if self.student.beta else ()
            losses["loss/labels"] = label_loss(self.score, queries, among, self.generator, *smoothing)
        return losses

    def compute_pair_losses(self) -> dict[str, Tensor]:
        """Computes the paper's losses on random pairs that a reranker with context embeddings read."""
        rows = torch.randint(len(self.targets.pairs), (PAIRS_PER_STEP,), generator=self.generator)
        (q, d), target, predictor = self.targets.pairs[rows].T, self.targets.states[rows], self.student.predictor
        size = target.shape[1]  # z^ may have one more number, what other teachers add
        predicted = predictor(self.data.train.states[q], self.data.z_d[d])[:, :size]
        w = predictor.choice_direction[:size]
        losses = {"loss/embedding": embedding_error(predicted, target, predictor.output_scale[:size])}
        losses["loss/log_odds"] = log_odds_error(predicted @ w, target @ w)
        if self.config.kl_weight:
            losses["loss/kl"] = reverse_kl(predicted @ w, target @ w)
        return losses

    def compute_list_loss(self) -> Tensor:
        """Returns the cross-entropy with the teacher's softmax over the documents of random queries."""
        rows = self.listed[torch.randint(len(self.listed), (QUERIES_PER_STEP,), generator=self.generator)]
        documents = self.targets.candidates(rows, len(self.data.z_d), self.generator)
        teacher, own = self.targets.lists(rows, documents), self.data.train.own_documents[rows][:, None] == documents
        return list_loss(self.score(self.data.train.states[rows], documents), teacher, own)

    def score(self, z_q: Tensor, documents: Tensor) -> Tensor:
        """Returns the log-odds (n, k) of states (n, H) and documents int64 (k,), some of which count as new.

        Where documents stay, none does.
        """
        gains = 1.0 if self.documents_stay else training_gains(self.taught[documents], self.generator)
        return self.student.log_odds(z_q, self.data.z_d[documents], gains)

    def _smoothing(self, rows: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Returns what a label's target is mixed with: the teacher's lists of these queries, else the encoder's."""
        if self.teacher.encoders:
            return lambda _, documents: self.targets.lists(rows, documents)
        return lambda z_q, documents: self.first_beta * (z_q @ self.data.z_d[documents].T)

    def prepare(self, data: RetrievalData) -> None:
        """Encodes the data, asks the teacher what costs no call, and makes a new student; :meth:`train` begins so."""
        config, over_encoder = self.config, self.encoder.has_similarity
        self.generator = torch.Generator().manual_seed(config.seed)
        self.data = encode_data(data, self.encoder, config.max_labelled_queries or None, config.seed)
        train, self.labelled, self.unlabelled = self.data.train, self.data.train.labelled, self.data.train.unlabelled
        teacher = self.teacher.joined_by(self.encoder) if over_encoder else self.teacher
        self.cached_teacher = CachedTeacher(teacher, self.data.documents, self.scores)
        calls = config.teacher_calls if teacher.rerankers and config.learns_from_teacher else 0
        weighs = self.data.has_labels and bool(teacher.encoders)
        self.schedule = Schedule.of(config, *self.data.sizes, calls, readings=1 + weighs)
        if weighs:
            self.cached_teacher.teacher = weigh_teacher(
                self.cached_teacher, self.data.dev, self.schedule.calibrated_queries
            )
        listed = bool(self.teacher.encoders and config.list_weight and len(self.listed))
        if not self.schedule.training_calls and not listed and not (config.label_weight and len(self.labelled)):
            raise InputError(
                f"{data.name}: no labels, no teacher that may score: nothing to learn from; add one of them or calls",
                param="teacher_calls",
            )
        self.targets = Targets(self.cached_teacher.similarities(train.texts))
        if not self.data.has_labels:
            dev = label_by_teacher(self.data.dev, self.cached_teacher, self.schedule.calibrated_queries)
            self.data = replace(self.data, dev=dev)
        # A list only smooths the target of a label: it does not teach the documents that no label names.
        asking = self.unlabelled if config.label_weight and not teacher.rerankers else torch.arange(len(train))
        self.taught = self.targets.asked_for(asking, len(self.data.documents))
        self.taught[[document for of_query in train.positives for document in of_query]] = True
        self.taught = processes.agree(self.taught)
        beta = choose_beta(train, self.data.z_d, self.taught) if over_encoder else 0.0
        self.first_beta = processes.agree(beta)
        if self.documents_stay and (missing := int((~self.taught).sum())):
            fault = f"nothing says what {missing} of {len(self.taught)} documents are right for"
            warnings.warn(f"{data.name}: {fault}; with new_document_gain 1 they will hardly be found", stacklevel=2)
        self.log: list[dict[str, Any]] = []
        self._calls_before = self.cached_teacher.calls  # of dev queries, which the schedule has set aside
        self._make_student()

    def _make_student(self) -> None:
        """Makes a new student and its optimiser."""
        config, over_encoder, teacher = self.config, self.encoder.has_similarity, self.cached_teacher.teacher
        w = self.cached_teacher.choice_direction(extra=bool(teacher.encoders))
        shape = self.encoder.hidden_size, config.hidden_units, config.dropout, config.predictor
        predictor = Predictor(*shape, w, len(w)).eval()
        predictor.fit_normalization("query", self.data.train.states)
        predictor.fit_normalization("document", self.data.z_d)
        if len(self.targets.states):
            predictor.fit_normalization("output", self.targets.states)
        self.student = Student(predictor, self.first_beta if over_encoder else 0.0).eval()
        beta = [{"params": [self.student.log_beta], "weight_decay": 0.0}] if over_encoder else []
        groups = [{"params": predictor.parameters(), "weight_decay": config.weight_decay}, *beta]
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
        self.learning_rate = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: self.schedule.learning_rate_factor(step),  # whose end may come early
        )

    @property
    def listed(self) -> Tensor:
        """Train queries whose lists teach, int64 (n,): those without labels, or those whose documents were read."""
        if self.teacher.encoders:
            return self.unlabelled if self.config.label_weight else torch.arange(len(self.data.train))
        return self.targets.pairs[:, 0].unique()

    @property
    def labelled_among(self) -> Tensor:
        """Documents that compete for labels, int64 (m,): those right for some query, or all that a reranker may read.

        What no query asks for would only be pushed down; left out, it is scored as a document that comes later. That
        takes an encoder's similarity: without one, all compete.
        """
        if len(self.targets.pairs) or not self.student.beta:
            return torch.arange(len(self.data.documents))
        return self.taught.nonzero().flatten()

    def _train_rounds(self) -> None:
        """Trains in rounds, and ends when several in a row bring no better student.

        The last one that is as good as the best stays, if it is better than the untrained one.
        """
        best, unchanged, started = deepcopy(self.student.state_dict()), 0, time.time()
        zero_shot = highest = self._dev_recall()
        batches = shuffled_batches(len(self.data.train), self.schedule.queries_per_round, self.generator)
        for round_ in range(1, self.config.rounds + 1):
            metrics = self._query_teacher(next(batches)) | self._fit(self.schedule.steps_per_round, f"round {round_}")
            late = processes.agree(bool(self.config.minutes) and time.time() - started > 60 * self.config.minutes)
            stalled = unchanged >= PATIENCE and len(self.data.dev) >= MIN_STOPPING_QUERIES
            last = round_ == self.config.rounds or stalled or late
            if last:
                self.schedule = self.schedule.end_after(round_)
                metrics |= self._fit(self.schedule.decay_steps, "last steps")
            self._report(round_, metrics)
            recall = self._dev_recall()
            unchanged = 0 if recall > highest else unchanged + 1
            highest = max(highest, recall)
            good = recall > zero_shot and recall >= highest - tolerance(len(self.data.dev))
            if good or not self.student.beta or not len(self.data.dev):
                best = deepcopy(self.student.state_dict())
            if last:
                break
        self.student.load_state_dict(best)

    def _query_teacher(self, queries: Tensor) -> dict[str, float]:
        """Lets rerankers read pairs of these queries; returns how well the student foresaw the result."""
        remaining = self.schedule.training_calls - (self.cached_teacher.calls - self._calls_before)
        pairs = processes.agree(self.sample_pairs(queries)[:remaining] if remaining > 0 else self.targets.pairs[:0])
        if not len(pairs):
            return {}
        first = not len(self.targets.pairs)
        log_odds, states = self.cached_teacher.read(self.data.train.texts, pairs)
        self._learn_pairs(pairs, log_odds, states)
        if first or not states.shape[1]:  # an untrained student foresees nothing
            return {}
        return fresh_pair_pearson(self.student.predictor, self.data, pairs, states)

    def _learn_pairs(self, pairs: Tensor, log_odds: Tensor, states: Tensor) -> None:
        """Adds pairs that were read to the targets; the first ones say how far z* spreads."""
        if states.shape[1] and not len(self.targets.pairs):
            self.student.predictor.fit_normalization("output", states)
        self.targets.add(pairs, log_odds, states)

    def _fit(self, n_steps: int, label: str) -> dict[str, float]:
        """Trains the student for some steps, shown under a label; returns the means of the losses."""
        sums: Counter[str] = Counter()
        self.student.train()
        for _ in track(range(n_steps), label):
            losses = self.compute_losses()
            self.optimizer.zero_grad()
            torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum().backward()
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
            self.optimizer.step()
            self.learning_rate.step()
            sums.update({name: loss.item() for name, loss in losses.items()})
        self.student.eval()
        self.student.load_state_dict(processes.agree(self.student.state_dict()))
        return {name: value / n_steps for name, value in sums.items()}

    def _dev_recall(self) -> float:
        return processes.agree(dev_recall(self.student.log_odds, self.data).get("dev/R@1", 0.0))

    def _make_retriever(self) -> Rabtriever:
        """Returns the retriever with what dev queries confirm of the correction, and calibrated probabilities."""
        fusion = processes.agree(choose_gain(self.student, self.data, self.taught, self.config.new_document_gain))
        setting, examples = self._choose_setting(fusion), self._examples(self.data)
        if self.documents_stay and fusion.beta and fusion.gain:
            given = self.student, fusion.gain, self.data, self.first_beta, examples, setting
            if adapter := processes.agree(fit_query_adapter(*given)):
                self.student.query_adapter, setting = adapter.matrix, adapter.setting
                fusion = replace(fusion, gain=adapter.gain, new_gain=adapter.gain)
        fusion = replace(fusion, center=setting.center)
        if examples and setting.weight:
            self.student.examples = examples.with_strength(setting.ridge, setting.weight, setting.share)
        calibrated = self.data, self.cached_teacher, self.schedule, bool(self.config.calibration_queries)
        made = fit_calibrations(self.student, fusion, self.taught, *calibrated)
        fusion = made.fusion
        predictor = self.student.predictor if fusion.gain else None
        taught = [text for text, known in zip(self.data.documents, self.taught.tolist(), strict=True) if known]
        trained_on = text_keys(taught) if predictor and fusion.beta else None
        return Rabtriever(
            self.encoder,
            predictor,
            made.calibration,
            made.reranker,
            fusion=fusion,
            trained_on=trained_on,
            refusal=made.refusal,
            reranked_calibration=made.reranked,
            examples=self.student.examples,
            query_adapter=None if self.student.query_adapter is None else self.student.query_adapter.numpy(),
        )

    def _choose_setting(self, fusion: Fusion) -> Setting:
        """Returns the setting that trainings without some documents find; no teacher is called."""
        trials: list[Trial] = []
        trains = fusion.gain > fusion.new_gain
        leaves_out = trains or (not fusion.gain and not self.documents_stay)
        parts = new_documents.leave_out(self.data, self.taught, self.generator) if leaves_out else []
        for left_out in parts:
            trial = copy(self)
            trial.data, trial.targets = new_documents.without(self.data, self.targets, left_out)
            trial.taught, trial.labelled = self.taught[~left_out], trial.data.train.labelled
            trial.unlabelled = trial.data.train.unlabelled
            if not len(trial.labelled) and not len(trial.listed):
                continue
            if trains:
                trial._make_student()
                trial._fit(
                    self.schedule.total_steps, f"trial {len(trials) + 1} of {len(parts)}, without some documents"
                )
            gains = torch.where(self.taught & ~left_out, fusion.gain, fusion.new_gain)
            trials.append(Trial(trial.student, gains, self._examples(trial.data), left_out))
        gains, examples = torch.where(self.taught, fusion.gain, fusion.new_gain), self._examples(self.data)
        if trials:
            return new_documents.choose_with_trials(trials, self.student, self.data, gains, fusion, examples)
        noise = tolerance(len(self.data.dev))
        return new_documents.choose_by_dev(self.student, self.data, gains, examples, noise)

    def _examples(self, data: EncodedData) -> Examples | None:
        """Returns the labelled train queries as examples; None if there are none, or no similarity."""
        rows = data.train.labelled[: self.config.examples]
        if len(rows) < len(data.train.labelled):  # a sample keeps how often documents are asked for
            drawn = torch.randperm(len(data.train.labelled), generator=torch.Generator().manual_seed(self.config.seed))
            rows = data.train.labelled[drawn[: self.config.examples]]
        if not len(rows) or not self.student.beta:
            return None
        chosen = data.train.select(rows)
        return Examples.of(chosen.states.numpy(), chosen.positives, text_keys(data.documents), data.z_d.numpy())

    def _report(self, round_: int, metrics: dict[str, float]) -> None:
        """Adds metrics of the student to those of a round, logs them and calls the callbacks."""
        metrics |= collapse_metrics(self.student.predictor, self.data, self.targets)
        metrics |= dev_recall(self.student.log_odds, self.data)
        metrics |= {"teacher_calls": self.cached_teacher.calls, "new_teacher_calls": self.cached_teacher.new_calls}
        self.log.append({"round": round_, **metrics})
        for callback in self.callbacks:
            callback.on_log(round_, metrics)
