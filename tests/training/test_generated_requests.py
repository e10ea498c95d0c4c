"""Distillation from requests that an LLM wrote: they teach, and nothing is held out or calibrated on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from encoders.models import save_sentence_model
from transformers import PreTrainedTokenizerFast

from rabtriever.data import RetrievalData
from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.training.config import DistillConfig
from rabtriever.training.distiller import Distiller
from rabtriever.training.teacher import Teacher

QUICK = DistillConfig(rounds=5, steps=20, hidden_units=8)


@pytest.fixture
def distiller(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Distiller:
    """Over a tiny encoder, taught by another one."""
    encoder, teacher = (
        SentenceEncoder.from_pretrained(
            str(save_sentence_model(tmp_path / architecture, tokenizer, architecture)), device="cpu", dtype="float32"
        )
        for architecture in ("bert", "mpnet")
    )
    return Distiller(encoder, Teacher.of([teacher]), QUICK)


def test_generated_requests_alone_train_to_the_end_and_leave_gain_and_probabilities_at_their_defaults(
    tiny_data: RetrievalData, distiller: Distiller
) -> None:
    made = distiller.train(replace(tiny_data, qrels={}, generated=frozenset(tiny_data.queries)))
    assert len(distiller.data.train) == 12 and not len(distiller.data.dev)
    assert len(distiller.log) == 5  # no round is better than another
    assert made.predictor is not None and made.fusion.gain == 1
    # As of the encoder alone: a cosine of .5 is even odds.
    assert made.calibration.temperature == 1
    assert made.calibration.probability(made.fusion.beta / 2) == pytest.approx(0.5)


def test_beside_real_requests_only_these_are_held_out(tiny_data: RetrievalData, distiller: Distiller) -> None:
    generated = frozenset(list(tiny_data.queries)[:9])
    distiller.train(replace(tiny_data, qrels={}, generated=generated))
    real = {text for query, text in tiny_data.queries.items() if query not in generated}
    assert distiller.data.dev.texts and set(distiller.data.dev.texts) < real
    assert {tiny_data.queries[query] for query in generated} <= set(distiller.data.train.texts)
