"""Commands with URIs for all that is read and made."""

import json
import warnings
from pathlib import Path

import pytest
from encoders.models import save_sentence_model
from fastapi.testclient import TestClient
from tiny import write_beir

from rabtriever.cli import main
from rabtriever.data.pairs import read_pairs
from rabtriever.errors import InputError
from rabtriever.evaluation.runs import read_run
from rabtriever.index import Index
from rabtriever.persistence import storage
from rabtriever.persistence.folder import local_path
from rabtriever.retriever import Rabtriever
from rabtriever.serving.app import make_app
from rabtriever.serving.auth import APIKeys
from rabtriever.serving.config import ServerConfig
from rabtriever.sources.mcp_config import read_servers

SMALL = ["--rounds", "1", "--steps", "2", "--teacher-calls", "12", "--hidden-units", "8", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Nothing may be written into the current folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    assert not list((tmp_path / "here").iterdir())


@pytest.fixture
def data(store, tiny_data, tmp_path):
    """A data set in the store, and a file of labelled requests."""
    write_beir(tmp_path / "data", tiny_data)
    storage.upload(tmp_path / "data", f"{store}/data")
    lines = [
        json.dumps({"text": text, "relevant": list(tiny_data.qrels["test"].get(query, {}))})
        for query, text in tiny_data.queries.items()
    ]
    (tmp_path / "requests.jsonl").write_text("\n".join(lines))
    storage.upload(tmp_path / "requests.jsonl", f"{store}/requests.jsonl")
    return f"{store}/data"


@pytest.fixture
def model(store, retriever):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its LLM is on this machine alone
        retriever.save_pretrained(f"{store}/model")
    return f"{store}/model"


def answer(capsys, *argv):
    """The JSON object that a command prints."""
    capsys.readouterr()
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_an_index_from_end_to_end(store, data, model, capsys, tmp_path):
    index = f"{store}/index"
    assert answer(capsys, "index", f"{data}/corpus.jsonl", "--model", model, "--out", index)["documents"] == 6
    found = answer(capsys, "search", index, "please show weather city")
    assert answer(capsys, "index", str(tmp_path / "data"), "--model", model, "--out", str(tmp_path / "index"))
    assert found == answer(capsys, "search", str(tmp_path / "index"), "please show weather city")
    info = answer(capsys, "info", index)
    assert info["uri"] == index and info["model"] == model and info["documents"] == 6
    assert answer(capsys, "index", data, "--out", index, "--update", "--delete")["unchanged"] == 6
    with TestClient(make_app(ServerConfig(uri=index, insecure=True), pytest.fail)) as client:
        for _ in range(200):
            if client.get("/health/ready").status_code == 200:
                break
        body = {"queries": ["please show weather city"]}
        assert client.post("/v1/search", json=body).status_code == 200
    for argv in (["index", data, "--model", model, "--out", index], ["search", f"{store}/other", "x"]):
        assert main(argv) == 2
    error = capsys.readouterr().err
    assert "holds tables already" in error and f"{store}/other: not an index" in error


def test_a_retriever_is_evaluated(store, data, model, capsys):
    report = ["--systems", "bm25,retriever", "--report", f"{store}/report"]
    made = answer(capsys, "evaluate", data, "--model", model, *report)
    assert (local_path(f"{store}/report") / "report.html").is_file()
    assert answer(capsys, "evaluate", data, "--model", model, "--systems", "bm25", "--runs", f"{store}/runs")
    runs = [read_run(f"{store}/{place}/bm25.trec") for place in ("runs", "report/runs")]
    assert runs[0] == runs[1] and set(made["systems"]) == {"bm25", "retriever"}
    assert main(["evaluate", data, "--model", model, *report]) == 2
    assert f"{store}/report: exists already" in capsys.readouterr().err
    checked = answer(capsys, "check", data, "--requests", f"{store}/requests.jsonl", "--model", model)
    assert checked["requests"] == 12


def test_a_retriever_is_distilled_into_a_store(store, data, tokenizer, tmp_path, capsys):
    for name, kind in (("encoder", "bert"), ("teacher", "mpnet")):
        save_sentence_model(tmp_path / name, tokenizer, kind)
        storage.upload(tmp_path / name, f"{store}/{name}")
    argv = ["distill", data, "--teacher", f"{store}/teacher", "--encoder", f"{store}/encoder", *SMALL]
    made = answer(capsys, *argv, "--out", f"{store}/student")
    assert made["retriever"] == f"{store}/student"
    loaded = Rabtriever.from_pretrained(f"{store}/student")
    assert loaded.encoder.describe()["name"] == f"{store}/encoder"  # another machine finds it
    tuned = [*argv, "--tune-encoder", "--encoder-steps", "2", "--out", f"{store}/tuned"]
    assert answer(capsys, *tuned)["retriever"] == f"{store}/tuned"
    assert len(Rabtriever.from_pretrained(f"{store}/tuned").encode_query(["weather"])) == 1
    assert not list(Path(storage.cache_dir() / "unfinished").glob("*"))
    exported = ["--to", "sentence-transformers", "--out", f"{store}/exported"]
    assert answer(capsys, "export", f"{store}/encoder", *exported)["out"] == f"{store}/exported"
    assert (local_path(f"{store}/exported") / "modules.json").is_file()
    assert main([*argv, "--out", f"{store}/student"]) == 2 and "exists already" in capsys.readouterr().err


def test_a_reranker_is_trained_into_a_store(store, data, llm_folder, capsys, monkeypatch):
    """An interrupted training goes on, from what is in the cache folder."""
    from rabtriever.training import train_reranker

    storage.upload(llm_folder, f"{store}/llm")
    storage.upload(_write(Path(storage.cache_dir()).parent / "p.json", '{"query_tokens": 20}'), f"{store}/prompt.json")
    argv = ["train", data, "--model", f"{store}/llm", "--prompt", f"{store}/prompt.json", "--out", f"{store}/teacher"]
    argv += ["--steps", "2", "--lora-rank", "2", "--hard-negative-share", "0", "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(train_reranker, "atomic_folder", _interrupted)
        assert main(argv) == 130
    assert "the same command goes on where it was" in capsys.readouterr().err
    assert list((storage.cache_dir() / "unfinished").rglob("checkpoint-2"))
    assert answer(capsys, *argv)["reranker"] == f"{store}/teacher"
    config = json.loads((local_path(f"{store}/teacher") / "rabtriever.json").read_text())
    assert config["llm"] == f"{store}/llm" and not list((storage.cache_dir() / "unfinished").iterdir())


def test_requests_are_generated_into_a_store(store, data, chat_folder, capsys, monkeypatch):
    def complete(self, conversations, seeds, max_lines, max_tokens):
        return [f"1. please number {seed}\n" for seed in seeds]

    monkeypatch.setattr("rabtriever.llm.writing.Writer.complete", complete)
    storage.upload(chat_folder, f"{store}/chat")
    argv = ["generate", data, "--generator", f"{store}/chat", "-n", "2", "--device", "cpu", "--out", f"{store}/r.jsonl"]
    made = answer(capsys, *argv)
    assert len(local_path(f"{store}/r.jsonl").read_text().splitlines()) == made["written"] == 12
    assert answer(capsys, *argv)["written"] == 0


def test_a_bad_line_is_named_by_its_uri(store, capsys, tmp_path):
    storage.upload(_write(tmp_path / "bad.jsonl", '{"_id": "a", "text": "x"}\n{"_id": 3}\n'), f"{store}/bad.jsonl")
    assert main(["index", f"{store}/bad.jsonl", "--model", "tools", "--out", f"{store}/index"]) == 2
    *_, error = capsys.readouterr().err.strip().splitlines()  # after a bar of progress
    assert error.startswith(f"rabtriever index: {store}/bad.jsonl, line 2: ")
    assert not storage.exists(f"{store}/index")
    for argv in (["search", "s3://nowhere/index", "x"], ["index", "s3://nowhere/x", "--model", "tools", "--out", "i"]):
        assert main(argv) == 2
        assert "no such bucket 'nowhere'" in (error := capsys.readouterr().err) and error.count("\n") == 1


def test_pairs_are_read_from_a_store(store, tiny_data, tmp_path):
    storage.upload(_write(tmp_path / "pairs.tsv", "q0\tlamp\nq1\tlamp\n"), f"{store}/pairs.tsv")
    storage.upload(_write(tmp_path / "pairs.jsonl", '{"query": "q0", "document": "lamp"}'), f"{store}/pairs.jsonl")
    assert len(read_pairs(f"{store}/pairs.tsv", tiny_data)) == 2
    assert len(read_pairs(f"{store}/pairs.jsonl", tiny_data)) == 1
    with pytest.raises(InputError, match="no such object"):
        read_pairs(f"{store}/nothing.tsv", tiny_data)


def test_no_copy_is_made_of_keys(store, tmp_path):
    key = "write-key-0123456789"
    storage.upload(_write(tmp_path / "keys", f"write {key}\n"), f"{store}/keys")
    servers = {"mcpServers": {"a": {"url": "https://a.test", "headers": {"Authorization": key}}}}
    storage.upload(_write(tmp_path / "mcp.json", json.dumps(servers)), f"{store}/mcp.json")
    assert APIKeys(f"{store}/keys", {}).roles(f"Bearer {key}") == {"read", "write"}
    assert [server.name for server in read_servers(f"{store}/mcp.json", {})] == ["a"]
    files = [path for path in storage.cache_dir().rglob("*") if path.is_file()]
    assert not any(key.encode() in path.read_bytes() for path in files)
    for read in (lambda: APIKeys(f"{store}/no", {}), lambda: read_servers(f"{store}/no", {})):
        with pytest.raises(InputError, match="no such"):
            read()


def test_feedback_reaches_an_index_in_a_store(store, data, model, capsys):
    from rabtriever.data import FeedbackEvent
    from rabtriever.index.feedback import FeedbackStore

    index = f"{store}/index"
    assert answer(capsys, "index", data, "--model", model, "--out", index)
    FeedbackStore(index).append([FeedbackEvent("weather", "weather")])
    assert [event.id for event in FeedbackStore(index).read()] == ["weather"] and len(Index.open(index)) == 6


def _interrupted(path):
    raise KeyboardInterrupt


def _write(path, text):
    path.write_text(text)
    return path
