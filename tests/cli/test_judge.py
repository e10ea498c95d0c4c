import json
import os
import shutil

import pytest
import torch
from encoders.models import save_sentence_model
from safetensors.torch import load_file, save_file
from stub_teacher import StubTeacher
from tiny import write_beir

from rabtriever.cli import main
from rabtriever.data import RetrievalData
from rabtriever.persistence.vectors import SUFFIX


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


@pytest.fixture
def stub():
    made = StubTeacher()
    yield made
    made.server.shutdown()
    made.server.server_close()


def many(*options):
    return "data", "--encoder", "encoder", "--split", "test", *options, "--json"


def test_scores_are_kept_and_the_same_command_computes_none(folder, cross_encoder_folder, capsys):
    options = many("--teacher", cross_encoder_folder, "--depth", 3)
    report = json.loads(run(capsys, *options)[1])
    code, out, _ = run(capsys, *options, "--out", "store")
    kept = json.loads(out)
    assert code == 0
    assert kept.pop("scores") == {"uri": str(folder / "store"), "pairs": 12, "new": 12, "failed": []}
    again = json.loads(run(capsys, *options, "--out", "store")[1])
    assert again.pop("scores")["new"] == 0
    for name in ("ms_per_pair",):
        for one in (report, kept, again):
            one["teachers"][str(cross_encoder_folder)].pop(name)
    assert report == kept == again


@pytest.mark.parametrize(("limit", "split", "pairs"), [(2, True, 6), (0, True, 12), (0, False, 36)])
def test_how_many_queries_are_scored(folder, stub, capsys, limit, split, pairs):
    options = ["--split", "test"] if split else []
    teacher = "--teacher", stub.source("tei"), "--encoder", "encoder", *options
    out = run(capsys, "data", *teacher, "--queries-limit", limit, "--depth", 3, "--out", "store", "--json")[1]
    found = json.loads(out)
    assert found["scores"]["pairs"] >= pairs and found["scores"]["new"] == len(stub.pairs)
    assert found["scores"]["pairs"] <= pairs + 12  # those of the report may be others where two documents are equal


def test_a_retrievers_best_documents(folder, stub, retriever, capsys):
    retriever.save_pretrained(folder / "retriever")
    options = many("--teacher", stub.source("tei"), "--depth", 2, "--queries-limit", 0, "--model", "retriever")
    code, out, _ = run(capsys, *options, "--out", "store")
    from rabtriever import Index, Rabtriever, load_data

    data = load_data("data")
    index = Index.build(None, Rabtriever.from_pretrained("retriever", device="cpu"), data.documents.values())
    texts = [data.queries[query] for query in data.labelled_queries("test")]
    best = {(text, data.documents[hit.id].content) for text in texts for hit in index.search(text, k=2)}
    assert code == 0 and best <= stub.pairs.keys() and len(stub.pairs) <= len(best) + 8


def test_a_list_of_pairs(folder, stub, capsys):
    (folder / "pairs.tsv").write_text("query-id\tcorpus-id\nq0\tlamp\nq0\tmusic\nq0\tlamp\n")
    lines = [{"query": "q0", "document": "lamp"}, {"query": "q0", "document": "music"}]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("pairs.tsv", "pairs.jsonl"):
        stub.pairs.clear()
        options = many("--teacher", stub.source("tei"), "--depth", 1, "--queries-limit", 1, "--pairs", name)
        code, out, _ = run(capsys, *options, "--out", f"store-{name}")
        found = json.loads(out)["scores"]
        assert code == 0 and found["pairs"] == found["new"] == 3  # one is the report's
        shutil.rmtree("cache/remote")
        assert {("please show weather city", f"{x}: find the {x} for me") for x in ("lamp", "music")} < set(stub.pairs)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("q0\tlamp\nq99\tlamp\n", "pairs.tsv, line 2: query 'q99' is not in data"),
        ("q0\tlamps\n", "pairs.tsv, line 1: document 'lamps' is not in data"),
        ("q0 lamp\n", "pairs.tsv, line 1: 1 tab-separated columns"),
        ("\n", "pairs.tsv is empty"),
    ],
)
def test_a_bad_line_of_pairs_is_named_before_a_model_is_loaded(folder, capsys, text, fault):
    (folder / "pairs.tsv").write_text(text)
    code, _, told = run(capsys, *many("--teacher", "x", "--pairs", "pairs.tsv", "--out", "store"))
    assert code == 2 and fault in told and not os.path.exists("store")


def test_flags_that_do_not_go_together(folder, capsys):
    for flag in ("--pairs", "--model", "--ray"):
        assert f"{flag}: belongs to --out" in run(capsys, *many("--teacher", "x", flag, "y"))[2]
    both = many("--teacher", "x", "--pairs", "y", "--model", "z", "--out", "store")
    assert "--pairs and --model: both say" in run(capsys, *both)[2]
    assert "no teacher reads pairs" in run(capsys, *many("--teacher", "encoder", "--out", "store"))[2]
    assert run(capsys, *many("--teacher", "x", "--pairs", "none.tsv", "--out", "store"))[0] == 2


def test_pairs_that_cannot_be_read_are_left_out_by_id(folder, cross_encoder_folder, tokenizer, capsys):
    shutil.copytree(cross_encoder_folder, "poisoned")
    weights = load_file("poisoned/model.safetensors")
    token = tokenizer(" lamp", add_special_tokens=False)["input_ids"][-1]
    weights["bert.embeddings.word_embeddings.weight"][token] = torch.inf
    save_file(weights, "poisoned/model.safetensors", {"format": "pt"})
    options = many("--teacher", "poisoned", "--depth", 6, "--queries-limit", 0, "--out", "store")
    code, out, told = run(capsys, *options)
    scores = json.loads(out)["scores"]
    failed = {(one["query"], one["document"]) for one in scores["failed"]}
    assert code == 1 and scores["new"] == 24 - len(failed) and {document for _, document in failed} >= {"lamp"}
    assert failed == {(query, "lamp") for query in ("q8", "q9", "q10", "q11")} | {
        ("q10", document) for document in ("weather", "flight", "recipe", "music", "sponge")
    }
    assert "left out: the document with query" in told and "NaN or infinite" in told


def test_a_cost_cap_keeps_what_was_paid_for(folder, stub, capsys):
    options = many("--teacher", stub.source("tei"), "--documents-per-request", 2, "--depth", 6, "--queries-limit", 0)
    capped = *options, "--price-per-1000-requests", 1000, "--max-cost", 5, "--concurrency", 2, "--out", "store"
    code, out, told = run(capsys, *capped)
    assert code == 2 and not out and "max_cost 5: the next request could pass it, 5 are spent" in told
    assert len(stub.requests) == 5 and len(list(folder.glob(f"store/*/*{SUFFIX}"))) == 1
    shutil.rmtree("cache")
    found = json.loads(run(capsys, *options, "--out", "store")[1])["scores"]
    assert found["new"] == 24 - 10 and set(stub.pairs.values()) == {1}
