"""Learning in use: what people chose becomes examples of an index's retriever, if later requests confirm them.

Nothing is encoded but requests; documents and index stay as they are. Requests are ranked by what came before them: as
the index does now, without the predictor's correction, and with the earlier choices as examples of several strengths.
Those of the second half, but for the newest fifth, choose among these; the newest fifth decides whether the choice is
better than the present beyond chance. Then it is taken, as a version that can be left again.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from rabtriever.data.feedback import FeedbackEvent
from rabtriever.errors import InputError
from rabtriever.index import Index
from rabtriever.index.learned import Learned
from rabtriever.progress import track
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.calibration import LIST_DEPTH, Calibration
from rabtriever.scoring.examples import BLOCK, RIDGES, WEIGHTS, Examples
from rabtriever.scoring.fold import score_latents
from rabtriever.scoring.refusal import Refusal
from rabtriever.training.choices import Choices, read_choices

CHANCE = 0.05  # most that an improvement by chance may be probable, before a version is taken
CHOOSING, DECIDING = 0.5, 0.8  # from these shares of the requests on, in the order of time
MAX_JUDGED = 2000  # newest requests that are ranked
MAX_EXAMPLES = 16_384  # the newest, that are remembered


@dataclass(frozen=True)
class Setting:
    """A way to rank: with the correction or without; with new examples of a strength, or (weight 0) as they are now."""

    correction: bool = True
    ridge: float = 0.0
    weight: float = 0.0
    negatives: bool = False


def tune(index: Index, events: Sequence[FeedbackEvent]) -> dict[str, Any]:
    """Lets the retriever of an index learn from what people chose.

    Args:
        index: Open, in a local folder.
        events: What came of searches; those without a time count in their order.

    Returns:
        ``version`` (the number of the one taken, or None), ``labels`` that counted and events ``skipped``, the requests
        that ``decided``, R@1 of these ``before`` and ``after``, ``p``, and the ``setting``.

    Raises:
        InputError: the retriever has no similarity, or the events say nothing new of the index's documents.
        BusyError: another process made a version meanwhile.
    """
    retriever, number = cast(Rabtriever, index.retriever), index.learned.current
    if not retriever.fusion.beta:
        raise InputError("index: its retriever has no encoder's similarity to build on; distil it over an encoder")
    choices = read_choices(index, retriever, events, index.learned.until)
    trial = _Trial(index, retriever, choices)
    present = Setting(retriever.correction)
    rivals = _settings(retriever)
    tried = track(rivals, "ranking by each setting")
    best = max(tried, key=lambda setting: trial.hits(setting)[~trial.decides].sum())
    before, after = (trial.hits(setting)[trial.decides] for setting in (present, best))
    p = _sign_test(after, before)
    report = {
        "labels": len(choices.rows),
        "skipped": choices.skipped,
        "decided": len(before),
        "before": float(before.mean()),
        "after": float(after.mean()),
        "p": p,
        "setting": vars(best),
        "until": choices.until,
    }
    if p > CHANCE:
        return {"version": None, **report}
    learned = Learned(trial.examples(best), *trial.calibrate(best, retriever.calibration), best.correction, report)
    version = index.learned.save(learned, number)
    index.use_learned()
    return {"version": version, **report}


class _Trial:
    """The newer half of the requests, ranked by what came before each.

    Attributes:
        decides: bool (n,), which of them are of the newest fifth.
    """

    def __init__(self, index: Index, retriever: Rabtriever, choices: Choices) -> None:
        self.retriever, self.choices = retriever, choices
        n = len(choices.rows)
        self.judged = np.arange(int(CHOOSING * n), n)[-MAX_JUDGED:]
        self.decides = self.judged >= min(n - 1, int(DECIDING * n))
        self.states, own, fusion = choices.states[self.judged], retriever.examples, retriever.fusion
        corrections = {setting.correction for setting in _settings(retriever)} | {retriever.correction}
        ways = {
            (c, e is not None): retriever.query_latents(self.states, e, c) for c in corrections for e in (None, own)
        }
        latents, ids = index.candidates(list(ways.values()), choices.ids)
        position = {document: row for row, document in enumerate(ids)}
        self.rows = np.array([position.get(choices.ids[choices.rows[i]], -1) for i in self.judged])
        self.embeddings = latents[:, : self.states.shape[1]] / np.sqrt(np.float32(fusion.beta))
        spread = fusion.gain - fusion.new_gain
        self.new = (fusion.gain - latents[:, -2]) / spread if spread > 0 else np.zeros(len(latents), np.float32)
        self.scores = {way: score_latents(of, latents, retriever.layout) for way, of in ways.items()}
        self._votes: dict[bool, tuple[Examples, np.ndarray]] = {}

    def hits(self, setting: Setting) -> np.ndarray:
        """Returns bool (n,), whether each request's document is ranked first."""
        return cast(np.ndarray, self.log_odds(setting).argmax(1) == self.rows)

    def log_odds(self, setting: Setting) -> np.ndarray:
        """Returns the log-odds float32 (n, c) by what came before each request."""
        if not setting.weight:
            return self.scores[setting.correction, self.retriever.examples is not None]
        examples, votes = self._voted(setting.negatives)
        examples = examples.with_strength(setting.ridge, setting.weight, self._share)
        shift = np.float32(setting.weight) * (votes @ examples.values)
        gained = shift @ self.embeddings.T
        if setting.correction:
            gained += examples.advantage(shift)[:, None] * self.new
        return cast(np.ndarray, self.scores[setting.correction, False] + gained)

    def examples(self, setting: Setting) -> Examples | None:
        """Returns all examples, or those of now if the setting adds none."""
        if not setting.weight:
            return self.retriever.examples
        examples, _ = self._voted(setting.negatives)
        newest = examples.select(np.arange(len(examples))[-MAX_EXAMPLES:])
        return newest.with_strength(setting.ridge, setting.weight, self._share)

    def calibrate(self, setting: Setting, prior: Calibration) -> tuple[Calibration, Refusal]:
        """Returns probabilities and limits by the deciding requests' best documents."""
        log_odds, rows = self.log_odds(setting)[self.decides], self.rows[self.decides]
        best = np.argsort(-log_odds, axis=1, kind="stable")[:, :LIST_DEPTH]
        found = np.take_along_axis(log_odds, best, 1)
        return Calibration.fit(found, best == rows[:, None], prior), Refusal.fit(found[:, 0])

    @property
    def _share(self) -> float:
        """What documents get that the predictor was not trained on: as before."""
        return self.retriever.examples.share if self.retriever.examples else 0.0

    def _voted(self, negatives: bool) -> tuple[Examples, np.ndarray]:
        """Returns all examples, and the votes float32 (n, m) of those before each request."""
        if negatives not in self._votes:
            examples, earlier = self.choices.examples(self.retriever.examples, negatives)
            blocks = np.array_split(np.arange(len(self.states)), -(-len(self.states) // BLOCK))
            votes = [examples.votes(self.states[rows], earlier[self.judged[rows]]) for rows in blocks]
            self._votes[negatives] = examples, np.concatenate(votes)
        return self._votes[negatives]


def _settings(retriever: Rabtriever) -> list[Setting]:
    """Returns the rivals of the present, from the least change to the greatest."""
    can_leave = retriever.predictor is not None and retriever.predictor.kind == "mlp"
    corrections = [retriever.correction, not retriever.correction] if can_leave else [retriever.correction]
    others = [Setting(correction) for correction in corrections[1:]]
    strengths = itertools.product(corrections, sorted(RIDGES, reverse=True), WEIGHTS, (False, True))
    return [*others, *(Setting(*of) for of in strengths)]


def _sign_test(after: np.ndarray, before: np.ndarray) -> float:
    """Returns how probable it is that chance alone mends so many more than it spoils, of bool (n,) hits."""
    from scipy.stats import binomtest

    mended, spoilt = int((after & ~before).sum()), int((before & ~after).sum())
    return float(binomtest(mended, mended + spoilt, 0.5, "greater").pvalue) if mended else 1.0
