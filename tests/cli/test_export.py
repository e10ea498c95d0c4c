import json

import pytest
from encoders.models import save_sentence_model
from integrations.retrievers import DOCUMENTS, QUERIES, log_odds, make_retriever
from sentence_transformers import SentenceTransformer

from rabtriever.cli import main
from rabtriever.encoders.sentence import SentenceEncoder


@pytest.fixture
def saved(tokenizer, tmp_path):
    """A retriever that remembers queries, and its folder."""
    folder = save_sentence_model(tmp_path / "encoder", tokenizer)
    encoder = SentenceEncoder.from_pretrained(str(folder), device="cpu", backend="torch")
    retriever = make_retriever(encoder, examples=5)
    retriever.save_pretrained(tmp_path / "retriever")
    return retriever, tmp_path / "retriever"


def test_examples_are_refused_or_left_out(saved, tmp_path, capsys):
    retriever, folder = saved
    command = ["export", str(folder), "--to", "sentence-transformers", "--out", str(tmp_path / "st"), "--json"]
    assert main(command) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "st").exists()
    assert main([*command, "--without-examples"]) == 0
    assert json.loads(capsys.readouterr().out)["out"] == str(tmp_path / "st")
    retriever.examples = None
    retriever.clear_caches()
    model = SentenceTransformer(str(tmp_path / "st"), device="cpu")
    found = model.similarity(model.encode_query(QUERIES), model.encode_document(DOCUMENTS)).numpy()
    assert found == pytest.approx(log_odds(retriever, QUERIES, DOCUMENTS), abs=1e-3)


def test_an_encoder_is_exported_as_it_ranks(tmp_path, tokenizer):
    folder = save_sentence_model(tmp_path / "encoder", tokenizer)
    assert main(["export", str(folder), "--to", "sentence-transformers", "--out", str(tmp_path / "st")]) == 0
    assert SentenceTransformer(str(tmp_path / "st"), device="cpu").similarity_fn_name == "dot"


def test_a_folder_that_exists_is_refused_before_a_model_is_loaded(tmp_path, capsys):
    (tmp_path / "st").mkdir()
    (tmp_path / "st" / "file").touch()
    assert main(["export", "no-such-model", "--to", "onnx", "--out", str(tmp_path / "st")]) == 2
    assert "exists already" in capsys.readouterr().err
