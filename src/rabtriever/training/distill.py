"""On-policy distillation: the student ranks, the teacher judges what it ranked, the predictor learns from that."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rabtriever.bm25 import BM25
from rabtriever.data import RetrievalData
from rabtriever.errors import InputError
from rabtriever.llm.backbone import Pooling
from rabtriever.persistence.folder import CONFIG, read_config
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.calibration import Calibration
from rabtriever.scoring.predictor import Predictor
from rabtriever.training.config import DistillConfig
from rabtriever.training.diagnostics import Diagnostics
from rabtriever.training.objective import Objective
from rabtriever.training.sampling import batches, sample_pairs
from rabtriever.training.splits import split_queries
from rabtriever.training.teacher_cache import TeacherCache


def distill(
    data: RetrievalData, teacher: str | Path, out: str | Path, settings: DistillConfig | None = None
) -> Rabtriever:
    """Distil a reranker into a retriever and write it to ``out``.

    Teacher outputs are cached on disk, so an interrupted run repeats nothing that was paid for. Without qrels all
    queries are used and only the teacher teaches.

    Args:
        data: Documents and queries; judgements if there are any.
        teacher: What :meth:`GenerativeReranker.from_pretrained` takes.
        out: Folder to make.
        settings: How to distil; the defaults if None.

    Raises:
        InputError: ``out`` exists, or there is nothing to train on.
    """
    settings = settings or DistillConfig()
    if Path(out).exists():
        raise InputError(f"{out}: exists already; give another --out or remove it")
    torch.manual_seed(settings.seed)
    reranker = GenerativeReranker.from_pretrained(teacher)
    run = _Run(data, reranker, settings)
    log = [line for line in run.train() if _report(line)]
    mine, theirs = run.calibrations()
    reranker.calibration = theirs
    retriever = Rabtriever(reranker, run.predictor.cpu(), run.pooling, mine)
    notes = {"data": data.name, "training": asdict(settings), "teacher_calls": run.diagnostics.teacher_calls}
    if (Path(teacher) / CONFIG).is_file():
        known = read_config(teacher)
        notes["teacher"] = {name: known[name] for name in ("data", "training", "training_before") if name in known}
    retriever.save_pretrained(out, notes, log)
    return retriever


ROWS = 1024  # queries whose scores of all documents are held at a time


class _Run:
    """The state of one distillation: encoded texts, the pairs scored so far, the predictor."""

    def __init__(self, data: RetrievalData, teacher: GenerativeReranker, settings: DistillConfig) -> None:
        self.settings, self.teacher = settings, teacher
        self.pooling: Pooling = "mean" if settings.pooling == "mean" else "last"
        self.chance = torch.Generator().manual_seed(settings.seed)
        self.cache = TeacherCache(teacher)
        place = {document: i for i, document in enumerate(data.documents)}
        train, dev = split_queries(data.with_dev(), settings)
        if not settings.teacher_calls and not any(train.values()):
            raise InputError(f"{data.name}: no judged query and no teacher call leave nothing to learn from; raise one")
        self.queries = [data.queries[query] for query in train]
        self.documents = [document.content for document in data.documents.values()]
        self.positives = [[place[document] for document in right] for right in train.values()]
        self.dev = [data.queries[query] for query in dev]
        self.device = teacher.backbone.device
        self.w = teacher.w.to(self.device)
        self.z_q, self.z_d = self._states("query", self.queries), self._states("document", self.documents)
        dev_states = self._states("query", self.dev) if dev else None
        self.diagnostics = Diagnostics(dev_states, [[place[document] for document in right] for right in dev.values()])
        shape = (teacher.backbone.hidden_size, settings.width, settings.dropout, settings.predictor)
        self.predictor = Predictor(*shape).eval().to(self.device)
        self.bm25 = BM25(data.documents.values()) if settings.policy == "bm25" else None
        self.predictor.fit_normalization("query", self.z_q)
        self.predictor.fit_normalization("document", self.z_d)
        lm_head = teacher.llm.model.get_output_embeddings().weight.detach()
        self.objective = Objective(settings, self.w, lm_head.float(), self.chance)
        self.pairs = torch.empty(0, 2, dtype=torch.long)
        self.targets = torch.empty(0, teacher.backbone.hidden_size, device=self.device)

    def _states(self, side: str, texts: list[str]) -> Tensor:
        return self.cache.states(side, texts, self.pooling).to(self.device)

    def train(self) -> Iterator[dict[str, Any]]:
        """Rank, ask the teacher, learn; a log line a round."""
        settings = self.settings
        optimiser = torch.optim.AdamW(
            self.predictor.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        a_round = max(1, settings.steps // settings.rounds)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, settings.learning_rate, total_steps=a_round * settings.rounds, pct_start=0.05
        )
        asked = batches(len(self.queries), self._sizes()[0], self.chance)
        for number, rows in enumerate(itertools.islice(asked, settings.rounds)):
            fresh = self._ask(rows)
            if number == 0 and len(fresh):
                self.predictor.fit_normalization("output", self.targets)
            fidelity = self.diagnostics.on_fresh_pairs(self, fresh) if number else {}
            self.predictor.train()
            losses = [self._step(optimiser, schedule) for _ in range(a_round)]
            self.predictor.eval()
            means = {name: sum(loss[name] for loss in losses) / len(losses) for name in losses[0]}
            yield {"round": number + 1, **means, **fidelity, **self.diagnostics.of_student(self)}

    def _sizes(self) -> tuple[int, int]:
        """Queries of a round, and pairs of a query: more than ``settings.pairs`` if queries are few."""
        settings = self.settings
        a_round = settings.teacher_calls / settings.rounds
        if settings.policy == "teacher":
            pairs = len(self.documents)
        else:
            pairs = min(len(self.documents), max(settings.pairs, math.ceil(a_round / len(self.queries))))
        return min(len(self.queries), max(1, math.ceil(a_round / pairs))), pairs

    @torch.no_grad()
    def _ask(self, rows: Tensor) -> Tensor:
        """Choose pairs for these queries and let the teacher score them; returns the new pairs' positions."""
        settings, left = self.settings, self.settings.teacher_calls - self.diagnostics.teacher_calls
        if settings.policy == "teacher":
            rows = rows[: left // len(self.documents)]
        if not len(rows) or left <= 0:
            return torch.empty(0, dtype=torch.long)
        pairs = torch.cat([self._chosen(some) for some in rows.split(ROWS)])[:left]
        if not len(pairs):
            return torch.empty(0, dtype=torch.long)
        states, new = self.cache.context_embeddings(self.queries, self.documents, pairs)
        self.diagnostics.teacher_calls += len(pairs)
        self.diagnostics.new_calls += new
        self.pairs, self.targets = torch.cat([self.pairs, pairs]), torch.cat([self.targets, states.to(self.device)])
        return torch.arange(len(self.pairs) - len(pairs), len(self.pairs))

    def _chosen(self, rows: Tensor) -> Tensor:
        """Pairs of these queries, those of a query side by side."""
        settings, known = self.settings, self._known(rows)
        if settings.policy == "teacher":  # to know its own ranking, it must score every document: all of that is taught
            row, column = (~known).nonzero().T
            return torch.stack([rows[row], column], dim=1)
        pairs = sample_pairs(
            self._preferences(rows),
            [self.positives[row] for row in rows.tolist()],
            known,
            self._sizes()[1],
            settings.exploration,
            settings.temperature,
            self.chance,
        )
        pairs = pairs[torch.argsort(pairs[:, 0], stable=True)]
        return torch.stack([rows[pairs[:, 0]], pairs[:, 1]], dim=1)

    def _preferences(self, rows: Tensor) -> Tensor:
        """What the policy is drawn from: float (n, k), unnormalised log-probabilities of documents."""
        shape = (len(rows), len(self.documents))
        if self.settings.policy == "uniform":
            return torch.zeros(shape)
        if self.bm25 is not None:
            return torch.tensor(np.stack([self.bm25.scores(self.queries[row]) for row in rows.tolist()]))
        return torch.cat([self.predictor.log_odds(self.z_q[some], self.z_d, self.w).cpu() for some in rows.split(64)])

    def _step(
        self, optimiser: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler
    ) -> dict[str, float]:
        loss, parts = self.objective(self.predictor, self.z_q, self.z_d, self.pairs, self.targets, self.positives)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.predictor.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        return parts

    @torch.no_grad()
    def calibrations(self) -> tuple[Calibration, Calibration]:
        """Student's and teacher's, fitted on the student's ten best documents of development queries."""
        count, states = min(self.settings.calibration, len(self.dev)), self.diagnostics.dev_states
        if not count or states is None:
            return Calibration(), Calibration()
        some = torch.linspace(0, len(self.dev) - 1, count).long()
        log_odds, best = (
            self.predictor.log_odds(states[some], self.z_d, self.w).cpu().topk(min(10, len(self.documents)))
        )
        pairs = torch.stack([some.repeat_interleave(best.shape[1]), best.flatten()], dim=1)
        right = np.array([document in self.diagnostics.dev_positives[query] for query, document in pairs.tolist()])
        mine = Calibration.fit(log_odds.flatten().numpy(), right)
        if not self.settings.teacher_calls:
            return mine, Calibration()
        theirs = self.cache.context_embeddings(self.dev, self.documents, pairs)[0] @ self.teacher.w
        return mine, Calibration.fit(theirs.numpy(), right)

    def _known(self, rows: Tensor) -> Tensor:
        """Which documents were scored for these queries before: bool (n, k)."""
        place = torch.full((len(self.queries),), -1)
        place[rows] = torch.arange(len(rows))
        seen = self.pairs[place[self.pairs[:, 0]] >= 0]
        known = torch.zeros(len(rows), len(self.documents), dtype=torch.bool)
        known[place[seen[:, 0]], seen[:, 1]] = True
        return known


def _report(line: dict[str, Any]) -> bool:
    print(json.dumps(line), file=sys.stderr, flush=True)
    return True
