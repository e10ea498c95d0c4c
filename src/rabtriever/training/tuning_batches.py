"""What a step of tuning an encoder sees: requests, the documents that they share, and the loss over them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rabtriever.errors import InputError
from rabtriever.scoring.fusion import ZERO_SHOT_BETA, text_keys
from rabtriever.training.config import TuneEncoderConfig
from rabtriever.training.encoded_data import EncodedData, EncodedQueries
from rabtriever.training.losses import list_loss, listwise
from rabtriever.training.targets import Targets
from rabtriever.training.tuned_model import TunedModel

MAX_DOCUMENTS = 96  # of a step; all where there are no more
MAX_POOL = 2048  # documents that are encoded anew to draw hard negatives from
HARD_NEGATIVES = 16  # best documents of a request among which they are
HELD_OUT_SHARE = 0.1  # of the documents


class TuningBatches:
    """Train requests and documents to tune on; everything that is drawn depends on the seed and the step alone.

    Args:
        data: Documents and train queries.
        targets: What the teacher says of the train queries.
        listed: Train queries of which the teacher has lists, int64 (n,).
        config: ``queries_per_step`` and ``seed``.

    Raises:
        InputError: too few documents, or no request for those that are not held out.
    """

    def __init__(self, data: EncodedData, targets: Targets, listed: Tensor, config: TuneEncoderConfig) -> None:
        self._data, self._targets, self._config = data, targets, config
        self._labelled = torch.tensor([bool(found) for found in data.train.positives])
        held = _held_out_documents(data.documents)
        self._answers = self._find_answers(listed)
        for_held = torch.tensor([any(held[d] for d in found) for found in self._answers])
        answered = torch.tensor([bool(found) for found in self._answers])
        asked_for = torch.zeros_like(held)
        asked_for[[d for found in self._answers for d in found]] = True
        # Labels alone would only push documents down that no query asks for.
        self._known = (~held & asked_for if self._labelled[answered].all() else ~held).nonzero()[:, 0]
        self._rows, self._held_rows = (answered & ~for_held).nonzero()[:, 0], for_held.nonzero()[:, 0]
        if not len(self._rows) or len(self._known) < 2:
            fault = "fewer than two documents that requests ask for beside the tenth of documents that is held out"
            raise InputError(f"tune_encoder: {fault}; add documents and requests", param="tune_encoder")
        self._pool, self._pool_states = self._known, torch.empty(0)

    def held_out(self, limit: int) -> EncodedQueries:
        """Returns at most so many of the requests for held-out documents; ``positives`` are what they ask for."""
        queries = self._data.train.select(self._held_rows[:limit])
        return replace(queries, positives=[self._answers[row] for row in self._held_rows[:limit].tolist()])

    def refresh(self, model: TunedModel, step: int) -> None:
        """Encodes the documents anew that hard negatives are drawn from, if a step cannot hold all documents."""
        if len(self._known) > MAX_DOCUMENTS:
            order = torch.randperm(len(self._known), generator=self._generator(step))
            self._pool = self._known[order[:MAX_POOL]]
            self._pool_states = model.states("document", [self._data.documents[d] for d in self._pool.tolist()])

    def loss(self, model: TunedModel, step: int) -> Tensor:
        """Returns the mean over a step's requests of their cross-entropy with the teacher's softmax or the labels."""
        generator, train = self._generator(step), self._data.train
        order = torch.randperm(len(self._rows), generator=generator)
        rows = self._rows[order[: self._config.queries_per_step]]
        z_q = model.embed("query", [train.texts[row] for row in rows.tolist()])
        documents = self._documents(rows, z_q.detach(), generator)
        z_d = model.embed("document", [self._data.documents[d] for d in documents.tolist()])
        log_odds = ZERO_SHOT_BETA * (z_q @ z_d.T).cpu()
        own, labelled = train.own_documents[rows][:, None] == documents, self._labelled[rows]
        loss = torch.zeros(())
        if labelled.any():
            positive = torch.zeros_like(own)
            for i, row in enumerate(rows.tolist()):
                positive[i] = torch.isin(documents, torch.tensor(train.positives[row], dtype=torch.long))
            masked = log_odds.masked_fill(own, float("-inf"))
            loss = loss + listwise(masked[labelled], positive[labelled]) * labelled.sum()
        if not labelled.all():
            teacher = self._targets.lists(rows[~labelled], documents)
            loss = loss + list_loss(log_odds[~labelled], teacher, own[~labelled]) * (~labelled).sum()
        return loss / len(rows)

    def _documents(self, rows: Tensor, z_q: Tensor, generator: torch.Generator) -> Tensor:
        """Returns a step's documents, int64 ascending: what each request asks for, and what is mistaken for it."""
        if len(self._known) <= MAX_DOCUMENTS:
            return self._known
        answers = [self._answers[row] for row in rows.tolist()]
        drawn = (torch.rand(len(rows), generator=generator) * torch.tensor([len(found) for found in answers])).long()
        right = torch.tensor([found[i] for found, i in zip(answers, drawn.tolist(), strict=True)]).unique()
        best = (z_q @ self._pool_states.T).topk(min(HARD_NEGATIVES, len(self._pool)), dim=1).indices.cpu()
        mistaken = self._pool[best.T.flatten()]  # all first ones, all second ones, ...
        chosen = dict.fromkeys([*right.tolist(), *mistaken.tolist()])
        return torch.tensor(list(chosen)[: max(MAX_DOCUMENTS, len(right))]).sort().values

    def _find_answers(self, listed: Tensor) -> list[list[int]]:
        """Returns the documents that each train query asks for: the labelled ones, or the teacher's first."""
        train, documents = self._data.train, torch.arange(len(self._data.documents))
        answers = [list(found) for found in train.positives]
        for block in listed[~self._labelled[listed]].split(64):
            own = train.own_documents[block][:, None] == documents
            first = self._targets.lists(block, documents).masked_fill(own, float("-inf")).argmax(1)
            for row, document in zip(block.tolist(), first.tolist(), strict=True):
                answers[row] = [document]
        return answers

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(1_000_003 * self._config.seed + step)


def _held_out_documents(texts: list[str]) -> Tensor:
    """Returns which documents are held out, bool (k,): those with the lowest hashes, at least one."""
    order = np.argsort(text_keys(texts).view(np.uint64), kind="stable")
    held = torch.zeros(len(texts), dtype=torch.bool)
    held[torch.from_numpy(order[: max(1, round(HELD_OUT_SHARE * len(texts)))])] = True
    return held
