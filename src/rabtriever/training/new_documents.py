"""Documents that come after a training: how they are scored, learnt from a training that leaves some documents out.

What was learnt prefers the documents that it was learnt from. Further trainings, each without another fifth of them and
their queries, say by how much: ``Fusion.center`` moves new documents up so far, and examples weigh so little, that new
documents are found as often as by the encoder (calibrated stacking, arXiv 1605.04253).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from rabtriever.scoring.examples import RIDGES, SHARES, WEIGHTS, Examples
from rabtriever.scoring.fusion import Fusion
from rabtriever.training.encoded_data import EncodedData, EncodedQueries
from rabtriever.training.student import Student, newness
from rabtriever.training.targets import Targets

SHARE, TRIALS = 0.2, 3  # of the documents is left out, so often
QUERIES_PER_BLOCK = 256
MIN_QUERIES = 30  # on dev, for documents that were left out and for the others
ADVANTAGES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0)  # log-odds that new documents may get


def leave_out(data: EncodedData, taught: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Draws disjoint fifths of the documents ``taught``, bool (k,): each bool (k,), if dev queries can judge it."""
    documents = taught.nonzero().flatten()
    parts = documents[torch.randperm(len(documents), generator=generator)].split(max(1, round(SHARE * len(documents))))
    drawn = [torch.zeros_like(taught).index_fill(0, part, True) for part in parts[:TRIALS]]
    return [left_out for left_out in drawn if min(map(len, _divide(data.dev, left_out))) >= MIN_QUERIES]


def without(data: EncodedData, targets: Targets, left_out: Tensor) -> tuple[EncodedData, Targets]:
    """Returns train queries, documents and targets as if some documents, bool (k,), were not there yet.

    Queries that are labelled with them, or for which the teacher puts one of them first, go with them.
    """
    left, train = (~left_out).nonzero().flatten(), data.train
    position = torch.where(left_out, -1, (~left_out).cumsum(0) - 1)
    documents, best = torch.arange(len(left_out)), torch.zeros(len(train), dtype=torch.long)
    for rows in torch.arange(len(train)).split(QUERIES_PER_BLOCK):
        own = train.own_documents[rows][:, None] == documents
        best[rows] = targets.lists(rows, documents).masked_fill(own, float("-inf")).argmax(1)
    gone = left_out[best] & torch.tensor([not relevant for relevant in train.positives])
    gone |= torch.tensor([any(left_out[d] for d in relevant) for relevant in train.positives])
    queries = (~gone).nonzero().flatten()
    row = torch.where(gone, -1, (~gone).cumsum(0) - 1)
    chosen = train.select(queries)
    chosen = replace(
        chosen,
        positives=[position[relevant].tolist() for relevant in chosen.positives],
        own_documents=torch.where(chosen.own_documents < 0, -1, position[chosen.own_documents]),
    )
    q, d = row[targets.pairs[:, 0]], position[targets.pairs[:, 1]]
    there = (q >= 0) & (d >= 0)
    remaining = Targets(
        [(weight, z_q[queries], z_d[left]) for weight, z_q, z_d in targets.similarities],
        torch.stack([q, d], dim=1)[there],
        targets.log_odds[there],
        targets.states[there],
    )
    texts = [data.documents[document] for document in left.tolist()]
    return replace(data, documents=texts, z_d=data.z_d[left], train=chosen), remaining


class Setting(NamedTuple):
    """What the trials choose.

    Attributes:
        center: ``Fusion.center``.
        ridge: Of the examples' values.
        weight: Of the examples; 0: none.
        share: Of what they give, for documents that are new.
    """

    center: float = 0.0
    ridge: float = 0.0
    weight: float = 0.0
    share: float = 0.0


class Measured(NamedTuple):
    """R@1 of a trial's dev queries.

    Attributes:
        all: setting -> R@1 of all of them.
        new: setting -> R@1 of those for documents left out.
        zero_shot: R@1 of the same by the encoder.
    """

    all: dict[Setting, float]
    new: dict[Setting, float]
    zero_shot: float


class Trial(NamedTuple):
    """A training without a fifth of the documents.

    Attributes:
        student: What it made; the encoder's similarity alone, if that is better than a predictor.
        gains: float (k,), of all documents.
        examples: Without those documents.
        left_out: bool (k,), those documents.
    """

    student: Student
    gains: Tensor
    examples: Examples | None
    left_out: Tensor

    def measure(self, data: EncodedData, settings: Sequence[Setting]) -> Measured:
        """Measures settings on the dev queries of ``data``, which has all documents."""
        new = replace(data, dev=_divide(data.dev, self.left_out)[0])
        of_all, of_new = (measure_settings(self.student, of, self.gains, settings, self.examples) for of in (data, new))
        zero_shot = measure_settings(self.student, new, torch.zeros_like(self.gains), [Setting()], None)
        return Measured(of_all, of_new, zero_shot[Setting()])


def choose_with_trials(
    trials: Sequence[Trial],
    student: Student,
    data: EncodedData,
    gains: Tensor,
    fusion: Fusion,
    examples: Examples | None,
) -> Setting:
    """Returns the center that trials find best, and beside it the examples that are best for the corpus as it is.

    Of the strengths of examples those count under which, in the trials, new documents are found as often as by the
    encoder, or as without examples if that is less.

    Args:
        trials: Trainings without some documents.
        student: The training with all of them.
        data: Its data.
        gains: float (k,), of its documents.
        fusion: With the gains.
        examples: Its examples.
    """
    spread = fusion.gain - fusion.new_gain
    centers = [Setting(advantage / spread) for advantage in ADVANTAGES] if spread else [Setting()]
    plain = Setting(choose_setting([trial.measure(data, centers) for trial in trials]).center)
    strengths = itertools.product(*_strengths(examples), SHARES)
    settings = [plain, *(Setting(plain.center, *of) for of in strengths)]
    measured = [trial.measure(data, settings) for trial in trials]
    of_new = _sums(measured)[1]
    least = min(of_new[plain], sum(one.zero_shot for one in measured))
    good = [setting for setting in settings if of_new[setting] >= least]
    own = measure_settings(student, data, gains, good, examples)
    return max(good, key=lambda setting: own[setting])


@torch.no_grad()
def measure_settings(
    student: Student,
    data: EncodedData,
    gains: Tensor,
    settings: Sequence[Setting],
    examples: Examples | None,
) -> dict[Setting, float]:
    """Returns R@1 over dev queries under each setting; gains are float (k,)."""
    hits, dev, new = dict.fromkeys(settings, 0.0), data.dev, newness(gains, len(gains))
    ridges = {setting.ridge for setting in settings if setting.weight}
    values = {ridge: torch.from_numpy(replace(examples, ridge=ridge).values) for ridge in ridges if examples}
    for rows in torch.arange(len(dev)).split(QUERIES_PER_BLOCK):
        queries = dev.select(rows)
        right = torch.zeros(len(rows), len(data.z_d))
        for row, relevant in zip(right, queries.positives, strict=True):
            row[relevant] = 1 / max(1, len(relevant))
        log_odds = student.log_odds(queries.states, data.z_d, gains)
        log_odds[tuple(queries.own_pairs.T)] = float("-inf")
        votes = torch.from_numpy(examples.votes(queries.states.numpy())) if examples else torch.empty(0)
        shifts = {ridge: votes @ of_documents for ridge, of_documents in values.items()}
        added = {ridge: shift @ data.z_d.T for ridge, shift in shifts.items()}
        most = {ridge: (shift @ _embeddings(examples).T).amax(1).clamp_min(0) for ridge, shift in shifts.items()}
        for setting in settings:
            scores = log_odds - setting.center * gains
            if setting.weight and examples:
                share = setting.share * most[setting.ridge][:, None] * new
                scores = scores + setting.weight * (added[setting.ridge] + share)
            hits[setting] += right.gather(1, scores.argmax(1, keepdim=True)).sum().item()
    return {setting: count / max(1, len(dev)) for setting, count in hits.items()}


def choose_setting(trials: Sequence[Measured]) -> Setting:
    """Returns the setting of the highest R@1, of those under which new documents are found as often as by the encoder.

    Means over the trials decide; of equal settings the first. If no setting does that, it is the one of the most new
    documents found.
    """
    of_all, of_new = _sums(trials)
    good = [setting for setting, recall in of_new.items() if recall >= sum(trial.zero_shot for trial in trials)]
    return max(good, key=lambda s: of_all[s]) if good else max(of_new, key=lambda s: of_new[s])


def _sums(trials: Sequence[Measured]) -> tuple[dict[Setting, float], dict[Setting, float]]:
    """Returns the sums over trials of R@1 of all dev queries and of those for documents left out, by setting."""
    of_all, of_new = ({s: sum(getattr(t, name)[s] for t in trials) for s in trials[0].all} for name in ("all", "new"))
    return of_all, of_new


def choose_by_dev(
    student: Student, data: EncodedData, gains: Tensor, examples: Examples | None, tolerance: float
) -> Setting:
    """Returns the setting of the highest R@1 on dev queries, without examples if none is better beyond a tolerance."""
    settings = [Setting(), *(Setting(0.0, *of) for of in itertools.product(*_strengths(examples)))]
    recalls = measure_settings(student, data, gains, settings, examples)
    best = max(recalls, key=lambda setting: recalls[setting])
    return best if recalls[best] > recalls[Setting()] + tolerance else Setting()


def _strengths(examples: Examples | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the ridges and weights to measure."""
    return (tuple(sorted(RIDGES, reverse=True)), WEIGHTS) if examples else ((), ())


def _embeddings(examples: Examples | None) -> Tensor:
    """Returns the embeddings of the labelled documents, float32 (m, H)."""
    return torch.empty(0, 0) if examples is None else torch.from_numpy(examples.embeddings)


def _divide(dev: EncodedQueries, left_out: Tensor) -> tuple[EncodedQueries, EncodedQueries]:
    """Returns the queries all of whose relevant documents are left out, and those of which none is."""
    shares = torch.tensor([left_out[relevant].float().mean() if relevant else 0.5 for relevant in dev.positives])
    return dev.select((shares == 1).nonzero().flatten()), dev.select((shares == 0).nonzero().flatten())
