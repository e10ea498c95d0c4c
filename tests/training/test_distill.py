"""From names to a saved model."""

from dataclasses import replace

import pytest
from training.teaching import QUICK, distill_own

from rabtriever.errors import ConflictError, StorageError
from rabtriever.retriever import Rabtriever
from rabtriever.training.distill import distill


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
