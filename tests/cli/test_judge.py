import json
import os

import pytest
from encoders.models import save_sentence_model
from stub_teacher import StubTeacher
from tiny import write_beir

from rabtriever.cli import main
from rabtriever.data import RetrievalData


@pytest.fixture
def folder(tiny_data, tokenizer, tmp_path, monkeypatch):
    """Data, and an encoder as ``encoder``; the cache is the folder's own."""
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_beir(tmp_path / "data", tiny_data)
    write_beir(tmp_path / "unlabelled", RetrievalData("unlabelled", tiny_data.documents, tiny_data.queries, {}))
    save_sentence_model(tmp_path / "encoder", tokenizer)
    return tmp_path


def run(capsys, *argv):
    """Exit code, what is printed and the last line of errors."""
    capsys.readouterr()
    code = main(["judge", *map(str, argv), "--device", "cpu"])
    out, err = capsys.readouterr()
    return code, out, err.strip().splitlines()[-1] if err.strip() else ""


def test_teachers_side_by_side(folder, cross_encoder_folder, capsys):
    teachers = "--teacher", cross_encoder_folder, "--teacher", "encoder", "--encoder", "encoder", "--split", "test"
    code, out, _ = run(capsys, "data", *teachers, "--depth", 3, "--json")
    report = json.loads(out)
    assert code == 0 and report["n_queries"] == 4 and report["depth"] == 3 and len(report["agreement"]) == 3
    same = report["teachers"]["encoder"]
    assert same["R@1"] == same["R@1_fused"] == report["encoder"]["R@1"]  # twice the same encoder
    code, table, _ = run(capsys, "data", *teachers, "--depth", 3)
    assert code == 0 and "all together" in table and f"{report['all']['R@1_fused']:.3f}" in table
    assert str(cross_encoder_folder) in table and "R@3 of encoder" in table


def test_a_server_beside_a_model(folder, cross_encoder_folder, capsys):
    stub = StubTeacher()
    servers = "--teacher", stub.source("tei"), "--teacher", stub.source("chat"), "--task", "Find tools."
    teachers = *servers, "--teacher", cross_encoder_folder, "--preset", "chat"
    code, out, _ = run(capsys, "data", *teachers, "--encoder", "encoder", "--depth", 3, "--json")
    stub.server.shutdown()
    stub.server.server_close()
    found = json.loads(out)["teachers"]
    assert code == 0 and len(found) == 3 and found[stub.source("tei")]["cost_per_pair"] == 0
    assert found[stub.source("chat")]["choice_mass"] > 0.5 and found[str(cross_encoder_folder)]["choice_mass"] is None
    assert any("Find tools." in json.dumps(body) for _, _, body in stub.requests)


def test_without_labels(folder, cross_encoder_folder, capsys):
    code, table, _ = run(capsys, "unlabelled", "--teacher", cross_encoder_folder, "--encoder", "encoder")
    assert code == 0 and "12 unlabelled queries" in table and "same first document" in table and "R@6" not in table


def test_an_llm_that_does_not_choose_is_refused(folder, chat_folder, capsys):
    code, out, fault = run(capsys, "data", "--teacher", chat_folder, "--encoder", "encoder")
    assert code == 2 and not out and "of the answer's probability is on ' yes' and ' no'" in fault


def test_bad_input_is_refused_before_a_model_is_loaded(folder, capsys, monkeypatch):
    def load(*args, **options):
        raise AssertionError(f"loads {args}")

    monkeypatch.setattr("rabtriever.encoders.sentence.SentenceEncoder.from_pretrained", load)
    assert run(capsys, "data", "--teacher", "x", "--split", "no")[2].startswith("rabtriever judge: data has no split")
    assert "at least 1" in run(capsys, "data", "--teacher", "x", "--queries-limit", 0)[2]
    assert "at least 1" in run(capsys, "data", "--teacher", "x", "--depth", 0)[2]
    assert "at least 1" in run(capsys, "unlabelled", "--teacher", "x", "--queries-limit", 0)[2]
    assert run(capsys, "nowhere", "--teacher", "x")[0] == 2


def test_a_preset_that_does_not_exist_is_refused(folder, capsys):
    code, _, fault = run(capsys, "data", "--teacher", "x", "--preset", "talk")
    assert code == 2 and "--preset" in fault
    assert not os.path.exists("cache")
