"""Whether an LLM chooses between its two answers at all, and which prompt makes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rabtriever.choices import PRESETS
from rabtriever.errors import InputError
from rabtriever.llm.presets import make_template
from rabtriever.llm.prompted import PromptedLLM
from rabtriever.rerankers.generative import GenerativeReranker

MIN_MASS = 0.5  # of the answer's probability, on the two choices together
PROBED, PROBED_AGAIN = 32, 8  # pairs: for the mass, and for another preset's


def check_choice_mass(
    name: str, reranker: GenerativeReranker, queries: Sequence[str], documents: Sequence[str], pairs: np.ndarray
) -> float:
    """Returns the mean probability of the two choices together, over a few of the pairs int64 (n, 2).

    Raises:
        InputError: less than ``MIN_MASS``, unless the LLM was trained with its prompt; the message names the preset
            that has most.
    """
    mass = _mean_mass(reranker, queries, documents, pairs, PROBED)
    if mass >= MIN_MASS or reranker.llm.loaded.adapter is not None:
        return mass
    others = {}
    for preset in PRESETS:
        try:
            template = make_template(preset, reranker.llm.loaded.tokenizer)
            if (template.yes, template.query_first) != (reranker.llm.template.yes, reranker.llm.template.query_first):
                other = GenerativeReranker(PromptedLLM(reranker.llm.loaded, template))
                others[preset] = _mean_mass(other, queries, documents, pairs, PROBED_AGAIN)
        except InputError:  # no chat template, or choices of several tokens
            continue
    best = max(others, key=lambda preset: others[preset], default="none")
    advice = f"--preset {best} has {others.get(best, 0):.0%}"
    if others.get(best, 0) < MIN_MASS:
        advice = f"no preset has half of it ({best}: {others.get(best, 0):.0%}); give another LLM"
    yes, no = reranker.llm.template.yes, reranker.llm.template.no
    raise InputError(f"{name}: only {mass:.0%} of the answer's probability is on {yes!r} and {no!r}; {advice}")


def _mean_mass(
    reranker: GenerativeReranker, queries: Sequence[str], documents: Sequence[str], pairs: np.ndarray, n: int
) -> float:
    some = pairs[np.linspace(0, len(pairs) - 1, min(n, len(pairs))).astype(int)]  # of all queries and ranks
    return float(reranker.choice_mass(queries, documents, some).mean())
