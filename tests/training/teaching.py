"""What the tests of distillation have in common."""

import numpy as np

from rabtriever.encoders.llm import LLMEncoder
from rabtriever.training.config import DistillConfig
from rabtriever.training.distill import distill
from rabtriever.training.distiller import Distiller
from rabtriever.training.teacher import Teacher

QUICK = DistillConfig(
    teacher_calls=40, pairs_per_query=4, rounds=4, steps=400, hidden_units=16, label_weight=0.0, learning_rate=1e-2
)


def own_distiller(reranker, config=QUICK, **options):
    """A distiller of the paper's case: the teacher's own LLM is the encoder."""
    return Distiller(LLMEncoder(reranker.llm), Teacher.of(rerankers=[reranker]), config, **options)


def distill_own(data, reranker, out=None, config=QUICK, encoder="teacher"):
    """Distils a reranker into a retriever over its own LLM."""
    return distill(data, Teacher.of(rerankers=[reranker]), out, config, encoder=encoder)


def contents(data):
    return [document.content for document in data.documents.values()]


def log_odds_of(student, data, queries):
    return student.similarity(student.encode_query(queries), student.encode_document(contents(data)))


def correlation(data, student, teacher, queries):
    expected = teacher.log_odds(queries, contents(data))
    return np.corrcoef(log_odds_of(student, data, queries).ravel(), expected.ravel())[0, 1]
