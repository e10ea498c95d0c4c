"""From names to a saved model."""

from dataclasses import replace

import numpy as np
import pytest
from training.teaching import QUICK, distill_own

from rabtriever.errors import ConflictError, StorageError
from rabtriever.rerankers.blocks import score_block
from rabtriever.rerankers.store import ScoreStore
from rabtriever.retriever import Rabtriever
from rabtriever.training.distill import distill
from rabtriever.training.teacher import Teacher


def test_a_teacher_may_be_named_and_its_training_is_noted(tiny_data, llm_folder, teacher, tmp_path):
    named = distill(tiny_data, llm_folder, tmp_path / "first", QUICK, encoder="teacher", dtype="float32")
    again = distill(tiny_data, [tmp_path / "first"], tmp_path / "second", QUICK, encoder="teacher", dtype="float32")
    assert named.reranker.llm.loaded.weights_hash == again.reranker.llm.loaded.weights_hash
    assert Rabtriever.from_pretrained(tmp_path / "second").fingerprint == again.fingerprint


def test_an_output_that_cannot_be_made_is_refused_before_anything_is_paid(tiny_data, teacher, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(ConflictError, match="exists already"):
        distill_own(tiny_data, teacher, tmp_path / "full", QUICK)
    with pytest.raises(StorageError, match="cannot be made"):
        distill_own(tiny_data, teacher, tmp_path / "full" / "file" / "out", QUICK)
    assert not teacher.scored
    (tmp_path / "empty").mkdir()
    distill_own(tiny_data, teacher, tmp_path / "empty", replace(QUICK, steps=4))
    assert (tmp_path / "empty" / "rabtriever.json").is_file()


def test_a_distillation_reads_states_of_a_store(tiny_data, teacher, tmp_path):
    queries, documents = list(tiny_data.queries.values()), [one.content for one in tiny_data.documents.values()]
    pairs = np.indices((len(queries), len(documents))).reshape(2, -1).T
    store = ScoreStore(tmp_path / "store")
    assert score_block(teacher, store.prepare(teacher), queries, documents, pairs).new == len(pairs)
    teacher.scored.clear()
    stored = distill(
        tiny_data, Teacher.of(rerankers=[teacher]), None, QUICK, encoder="teacher", scores=store.folder.uri
    )
    assert not teacher.scored
    live = distill(tiny_data, Teacher.of(rerankers=[teacher]), None, QUICK, encoder="teacher")
    assert teacher.scored
    found = [one.similarity(one.encode_query(queries), one.encode_document(documents)) for one in (stored, live)]
    np.testing.assert_allclose(*found, atol=1e-3)
