"""Catalogues from the shell: index, bring up to date, check, and what else takes a source."""

import json
import shutil

import pytest
from encoders.models import save_sentence_model
from tiny import write_beir

from rabtriever.cli import main
from rabtriever.encoders.sentence import SentenceEncoder

TOOLS = [
    {"name": name, "description": f"find the {name} for me", "inputSchema": {}}
    for name in ("weather", "flight", "recipe", "music", "lamp", "sponge")
]


@pytest.fixture(autouse=True)
def folder(tokenizer, tmp_path, monkeypatch):
    """A tool list, requests, an encoder as ``encoder``; the cache is the folder's own."""
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tools.json").write_text(json.dumps({"home": {"tools": TOOLS}}))
    rows = [{"text": f"please show {tool['name']}", "tool": tool["name"]} for tool in TOOLS]
    rows.append({"text": "sing me a song", "tools": []})
    (tmp_path / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_sentence_model(tmp_path / "encoder", tokenizer)
    return tmp_path


@pytest.fixture
def encoded(monkeypatch):
    """The texts that were encoded as documents."""
    texts = []
    encode = SentenceEncoder.encode_documents

    def counted(self, inputs, *args, **options):
        texts.extend(inputs)
        return encode(self, inputs, *args, **options)

    monkeypatch.setattr(SentenceEncoder, "encode_documents", counted)
    return texts


def run(capsys, *argv):
    """Exit code, what is printed and the last line of errors."""
    capsys.readouterr()
    code = main([*map(str, argv)])
    out, err = capsys.readouterr()
    return code, out, err.strip().splitlines()[-1] if err.strip() else ""


def test_a_second_run_encodes_nothing_and_a_change_only_itself(folder, encoded, capsys):
    assert run(capsys, "index", "tools.json", "--model", "encoder", "--out", "i")[0] == 0
    assert len(encoded) == len(TOOLS)
    encoded.clear()
    update = "index", "tools.json", "--out", "i", "--update"
    code, out, _ = run(capsys, *update)
    assert code == 0 and not encoded
    assert out == "i: 6 documents: added 0, changed 0, removed 0, unchanged 6\n"

    tools = [{**TOOLS[0], "description": "wind and rain"}, *TOOLS[2:], {"name": "tuba", "description": "a song"}]
    (folder / "tools.json").write_text(json.dumps({"home": {"tools": tools}}))
    code, out, _ = run(capsys, *update)
    assert code == 0 and sorted(encoded) == ["tuba: a song", "weather: wind and rain"]
    expected = "added 1, changed 1, removed 0, unchanged 4; 1 others are not in tools.json: --delete removes them"
    assert out == f"i: 7 documents: {expected}\n"
    encoded.clear()
    answer = json.loads(run(capsys, *update, "--delete", "--json")[1])
    counts = {"added": 0, "changed": 0, "removed": 1, "unchanged": 6, "missing": 0}
    assert answer == {"index": "i", "documents": 6, **counts} and not encoded
    hits = json.loads(run(capsys, "search", "i", "flight", "--mode", "bm25", "--json")[1])["hits"]
    assert "home.flight" not in [hit["id"] for hit in hits]


def test_delete_is_a_part_of_an_update(capsys):
    code, out, line = run(capsys, "index", "tools.json", "--model", "encoder", "--out", "i", "--delete")
    assert code == 2 and not out and "--delete: removes documents of an index that exists" in line


def test_a_table_with_other_columns(folder, capsys):
    (folder / "t.csv").write_text("key,what,head\n1,find rain,Rain\n")
    columns = "--id-column", "key", "--text-column", "what", "--title-column", "head"
    assert run(capsys, "index", "t.csv", "--model", "encoder", "--out", "i", *columns)[0] == 0
    (hit,) = json.loads(run(capsys, "search", "i", "rain", "--json")[1])["hits"]
    assert (hit["id"], hit["text"]) == ("1", "Rain: find rain")


def test_a_retriever_is_distilled_for_a_catalogue(folder, capsys):
    small = "--rounds", 1, "--steps", 2, "--hidden-units", 8, "--device", "cpu", "--encoder", "encoder"
    queries = "--queries", "requests.jsonl", "--teacher", "encoder"
    assert run(capsys, "distill", "tools.json", *queries, "--out", "student", *small)[0] == 0
    assert run(capsys, "index", "tools.json", "--model", "student", "--out", "i")[0] == 0


def test_requests_are_generated_for_a_catalogue(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("rabtriever.llm.loading.load_llm", lambda *args, **options: None)
    monkeypatch.setattr("rabtriever.training.generate.generate_requests", lambda found, *_, **__: seen.extend(found))
    assert run(capsys, "generate", "tools.json", "--generator", "llm", "--out", "made.jsonl")[0] == 0
    assert [document.id for document in seen] == [f"home.{tool['name']}" for tool in TOOLS]


def test_a_check_passes_or_not(capsys):
    argv = "check", "tools.json", "--requests", "requests.jsonl", "--model", "encoder", "--json"
    code, out, _ = run(capsys, *argv)
    report = json.loads(out)
    assert code == 0 and report["passed"] and report["min_recall5"] is None
    recall = report["R@5"]
    assert report["documents"] == 6 and report["requests"] == 7 and report["answerable"] == 6 and 0 < recall <= 1
    assert run(capsys, *argv, "--min-recall5", recall)[0] == 0
    with open("requests.jsonl", "w") as file:  # as many requests as documents: five hits of six cannot be all of them
        file.write(json.dumps({"text": "all", "tools": [tool["name"] for tool in TOOLS]}) + "\n")
    code, out, _ = run(capsys, *argv, "--min-recall5", 0.9)
    assert code == 1 and json.loads(out)["R@5"] == pytest.approx(5 / 6) and not json.loads(out)["passed"]


def test_a_check_as_text(folder, capsys):
    argv = "check", "tools.json", "--requests", "requests.jsonl", "--model", "encoder"
    report = json.loads(run(capsys, *argv, "--json")[1])
    code, out, _ = run(capsys, *argv, "--min-recall5", 0)
    assert code == 0 and out.startswith("6 documents, 7 requests\n")
    assert f"R@1  {report['R@1']:.3f}" in out and "passed: R@5 of at least 0 was asked for" in out
    assert f"first hit wrong: {len(report['missed'])} of 6 requests" in out
    assert all(miss["text"] in out and miss["first"] in out for miss in report["missed"])
    assert "nothing fits: 1 requests, the retriever cannot refuse" in out and "'sing me a song': home." in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["tools.json", "--requests", "none.jsonl"], "none.jsonl is missing"),
        (["tools.json", "--requests", "wrong.jsonl"], "wrong.jsonl, line 1: the catalogue has no 'lmap'"),
        (["none.json", "--requests", "requests.jsonl"], "none.json: no such file or folder"),
        (["tools.json", "--requests", "requests.jsonl", "--min-recall5", "90"], "--min-recall5 90.0: a share"),
        (["tools.json"], "required: --requests"),
    ],
)
def test_bad_input_of_a_check_is_one_line_before_a_model_is_loaded(folder, capsys, monkeypatch, argv, message):
    (folder / "wrong.jsonl").write_text('{"text": "dark", "tool": "lmap"}\n')
    monkeypatch.setattr("rabtriever.retriever.Rabtriever.from_pretrained", None)
    code, out, line = run(capsys, "check", *argv)
    assert code == 2 and not out and message in line


def test_a_zip_is_evaluated(tiny_data, tmp_path, capsys):
    shutil.make_archive(str(tmp_path / "tiny"), "zip", write_beir(tmp_path / "made" / "tiny", tiny_data).parent)
    code, out, _ = run(capsys, "evaluate", "tiny.zip", "--model", "encoder", "--systems", "retriever", "--json")
    assert code == 0 and json.loads(out)["n_queries"] == 4
