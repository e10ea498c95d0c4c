"""Learning in use: what people chose becomes examples of an index's retriever, if later requests confirm them.

Nothing is encoded anew but the requests; documents and index stay as they are. Each request of the newer half is ranked
by what came before it: as the index does now, by the encoder alone, and with the earlier choices as examples of several
strengths. The best of these is taken if it is better beyond chance, and a version that can be left again.
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
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.calibration import LIST_DEPTH, Calibration
from rabtriever.scoring.examples import RIDGES, WEIGHTS, Examples
from rabtriever.scoring.fold import score_latents
from rabtriever.scoring.refusal import Refusal
from rabtriever.training.choices import Choices, read_choices

CHANCE = 0.05  # most that an improvement by chance may be probable, before a version is taken
MAX_JUDGED = 2000  # newest requests that decide
MAX_PER_DOCUMENT = 128  # newest examples that are remembered
NEW_DOCUMENT_SHARE = 0.75  # of what examples give, for documents that the predictor was not trained on


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
        ``version`` (the number of the one taken, or None), ``labels`` that counted, ``judged`` requests with their
        ``before`` and ``after`` (R@1), ``p``, and the ``setting``.

    Raises:
        InputError: the retriever has no similarity, or the events name no document of the index.
    """
    retriever = cast(Rabtriever, index.retriever)
    if not retriever.fusion.beta:
        raise InputError("tune: this retriever has no encoder's similarity to build on; distil it over an encoder")
    choices = read_choices(index, retriever, events)
    trial = _Trial.of(index, retriever, choices)
    present = trial.hits(Setting(retriever.correction))
    rivals = {setting: trial.hits(setting) for setting in _settings(retriever)}
    best = max(rivals, key=lambda setting: rivals[setting].sum())
    p = _sign_test(rivals[best], present)
    report = {
        "labels": len(choices.rows),
        "skipped": choices.skipped,
        "judged": len(present),
        "before": float(present.mean()) if len(present) else None,
        "after": float(rivals[best].mean()) if len(present) else None,
        "p": p,
        "setting": vars(best),
    }
    if p > CHANCE:
        return {"version": None, **report}
    calibration, refusal = trial.calibrate(best, retriever.calibration)
    learned = Learned(trial.examples(best), calibration, refusal, best.correction, report)
    version = index.learned.save(learned)
    index.use_learned()
    return {"version": version, **report}


class _Trial:
    """The requests that decide, ranked by what came before them.

    Args:
        retriever: As it is now.
        choices: All requests; the newer half of them decides.
        latents: float32 (c, dim), of the documents that are ranked.
        rows: Position among these of each deciding request's document.
    """

    def __init__(self, retriever: Rabtriever, choices: Choices, latents: np.ndarray, rows: np.ndarray) -> None:
        self.retriever, self.choices, self.latents, self.rows = retriever, choices, latents, rows
        self.judged = _judged(choices)
        states = choices.states[self.judged]
        root = np.sqrt(np.float32(retriever.fusion.beta))
        self.embeddings = latents[:, : states.shape[1]] / root
        self.base = {
            correction: score_latents(retriever.query_latents(states, None, correction), latents, retriever.layout)
            for correction in {s.correction for s in _settings(retriever)} | {retriever.correction}
        }
        own, fusion = retriever.examples, retriever.fusion
        spread = fusion.gain - fusion.new_gain
        self.new = (fusion.gain - latents[:, -2]) / spread if spread > 0 else np.zeros(len(latents), np.float32)
        self.present = np.float32(0) if own is None else self._gained(own, own.shift(states), retriever.correction)
        self.votes: dict[bool, np.ndarray] = {}

    @classmethod
    def of(cls, index: Index, retriever: Rabtriever, choices: Choices) -> _Trial:
        """Ranks the documents that were chosen, and the best of each deciding request."""
        judged = _judged(choices)
        ordinals = index.candidates(
            [retriever.query_latents(choices.states[judged], one) for one in (None, retriever.examples)], choices.ids
        )
        latents, ids = index.latents(ordinals)
        position = {document: row for row, document in enumerate(ids)}
        rows = np.array([position[choices.ids[choices.rows[i]]] for i in judged], np.int64)
        return cls(retriever, choices, latents, rows)

    def hits(self, setting: Setting) -> np.ndarray:
        """Returns bool (n,), whether each deciding request's document is ranked first."""
        return cast(np.ndarray, self.log_odds(setting).argmax(1) == self.rows)

    def log_odds(self, setting: Setting) -> np.ndarray:
        """Returns the log-odds float32 (n, c) by what came before each request."""
        base = self.base[setting.correction]
        if not setting.weight:
            return cast(np.ndarray, base + self.present)
        examples, earlier = self.choices.examples(self.retriever.examples, setting.negatives)
        if setting.negatives not in self.votes:
            self.votes[setting.negatives] = examples.votes(self.choices.states[self.judged], earlier[self.judged])
        examples = examples.with_strength(setting.ridge, setting.weight, NEW_DOCUMENT_SHARE)
        shift = np.float32(setting.weight) * (self.votes[setting.negatives] @ examples.values)
        return cast(np.ndarray, base + self._gained(examples, shift, setting.correction))

    def _gained(self, examples: Examples, shift: np.ndarray, correction: bool) -> np.ndarray:
        """Returns what shifts (n, H) of the deciding requests add to the log-odds, float32 (n, c)."""
        new = self.new if correction else np.zeros_like(self.new)
        return cast(np.ndarray, shift @ self.embeddings.T + examples.advantage(shift)[:, None] * new)

    def examples(self, setting: Setting) -> Examples:
        """Returns all examples, or those of now if the setting adds none."""
        if not setting.weight and self.retriever.examples is not None:
            return self.retriever.examples
        examples, _ = self.choices.examples(self.retriever.examples, setting.negatives)
        return examples.newest(MAX_PER_DOCUMENT).with_strength(setting.ridge, setting.weight, NEW_DOCUMENT_SHARE)

    def calibrate(self, setting: Setting, prior: Calibration) -> tuple[Calibration, Refusal]:
        """Returns probabilities and limits by the deciding requests' best documents."""
        log_odds = self.log_odds(setting)
        best = np.argsort(-log_odds, axis=1, kind="stable")[:, :LIST_DEPTH]
        found = np.take_along_axis(log_odds, best, 1)
        return Calibration.fit(found, best == self.rows[:, None], prior), Refusal.fit(found[:, 0])


def _judged(choices: Choices) -> np.ndarray:
    """Returns which requests decide: the newer half, int64 ascending."""
    return np.arange(len(choices.rows) // 2, len(choices.rows))[-MAX_JUDGED:]


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
