import io
import json
import subprocess
import sys
import warnings

import pytest
import torch
from tiny import write_beir

from rabtriever.cli import COMMANDS, main
from rabtriever.data import Document
from rabtriever.encoders.llm import LLMEncoder
from rabtriever.index import Index
from rabtriever.retriever import Rabtriever
from rabtriever.training import hard_negatives


@pytest.fixture
def workspace(tiny_data, tmp_path, monkeypatch):
    """An empty folder with data, prompts and a cache; the hub is offline."""
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hard_negatives, "STEPS", 5)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    write_beir(tmp_path / "data", tiny_data)
    (tmp_path / "prompt.json").write_text(json.dumps({"document_tokens": 20, "query_tokens": 20}))
    (tmp_path / "choice.json").write_text('{"yes": " undoubtedly"}')
    (tmp_path / "types.json").write_text('{"yes": 1}')
    (tmp_path / "list.json").write_text("[]")
    return tmp_path


@pytest.fixture
def index(workspace, retriever, capsys):
    """The folder "model", and "index" of the data by it."""
    retriever.save_pretrained("model")
    assert main(["index", "data", "--model", "model", "--out", "index"]) == 0
    capsys.readouterr()
    return workspace / "index"


@pytest.fixture
def no_model(monkeypatch):
    """Fails if a model is loaded."""

    def load(*args, **options):
        raise AssertionError(f"loads {args}")

    monkeypatch.setattr("rabtriever.retriever.Rabtriever.from_pretrained", load)
    monkeypatch.setattr("rabtriever.rerankers.generative.GenerativeReranker.from_pretrained", load)


def answer(capsys, *argv):
    """The JSON object that a command prints."""
    capsys.readouterr()
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def fault(capsys, *argv):
    """The one line of a command that refuses its input."""
    capsys.readouterr()
    assert main(argv) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("rabtriever")]
    assert len(lines) == 1 and not out, (out, err)
    return lines[0]


def files(folder):
    return {path for path in folder.rglob("*") if "cache" not in path.parts}


def test_train_distill_index_search_evaluate(workspace, llm_folder, capsys):
    small = ["--steps", "2", "--negatives", "2", "--prompt", "prompt.json", "--model", str(llm_folder)]
    assert answer(capsys, "train", "data", "--out", "teacher", "--dtype", "float32", *small) == {"reranker": "teacher"}
    small = ["--teacher-calls", "12", "--rounds", "2", "--steps", "4", "--hidden-units", "8", "--backend", "torch"]
    made = answer(capsys, "distill", "data", "--teacher", "teacher", "--encoder", "teacher", "--out", "student", *small)
    assert made == {"retriever": "student", "gain": 1.0, "query_adapter": False}
    for model in ("teacher", "student"):
        assert "# " + model in (workspace / model / "README.md").read_text()
        for path in (workspace / model).rglob("*"):
            text = path.read_text() if path.suffix in (".json", ".md", ".jsonl") else ""
            assert str(workspace) not in text and str(llm_folder) not in text, path
    made = answer(capsys, "index", "data", "--model", "student", "--out", "index")
    assert made == {"index": "index", "documents": 6}
    found = answer(capsys, "search", "index", "show rain", "-k", "2", "--where", "id <> 'lamp'", "--rerank", "3")
    assert len(found["hits"]) == 2 and found["query"] == "show rain"
    assert set(found["hits"][0]) == {"id", "probability", "log_odds", "text", "metadata", "reranked"}
    systems = ["--systems", "retriever,reranker,bm25"]
    report = answer(capsys, "evaluate", "data", "--model", "student", *systems, "--runs", "runs")
    assert report["n_queries"] == 4 and set(report["systems"]) == {"retriever", "reranker", "bm25"}
    assert main(["search", "index", "rain"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_search_takes_every_option(index, capsys):
    hits = answer(capsys, "search", "index", "please show rain")["hits"]
    assert len(hits) == 6
    threshold = str(hits[2]["probability"])
    assert answer(capsys, "search", "index", "please show rain", "--threshold", threshold)["hits"] == hits[:3]
    assert "no requests that people labelled" in fault(capsys, "search", "index", "rain", "--refuse", "0.05")
    for options in (["--mode", "exact"], ["--device", "cpu"], ["--model", "model"], ["-k", "6"]):
        found = answer(capsys, "search", "index", "please show rain", *options)["hits"]
        assert [hit["id"] for hit in found] == [hit["id"] for hit in hits]
    assert {hit["id"] for hit in answer(capsys, "search", "index", "lamp", "--mode", "bm25")["hits"]} == {"lamp"}
    assert main(["search", "index", "zebra", "--mode", "bm25"]) == 0 and capsys.readouterr().out == ""  # no blank line
    hits = answer(capsys, "search", "index", "find the lamp", "--rerank", "2")["hits"]
    assert sum(hit["reranked"] for hit in hits) == 2


def test_search_reads_context(index, capsys):
    context = ["--history", "it is dark", "--history", "what room?", "--used", "lamp"]
    found = answer(capsys, "search", "index", "show rain", *context, "--rerank", "2")
    assert found["query"] == "show rain"
    title = Index.open(index).get(["lamp"])[0]
    text = f"it is dark\nwhat room?\nshow rain\nDone so far: {title.title or title.text}"
    assert found["hits"] == answer(capsys, "search", "index", text, "--rerank", "2")["hits"]
    assert "used: no document 'nobody' in the index" in fault(capsys, "search", "index", "rain", "--used", "nobody")
    assert "history 0: ' ' has no tokens" in fault(capsys, "search", "index", "rain", "--history", " ")


def test_an_index_is_brought_up_to_date_and_described(index, capsys):
    lines = [{"_id": "lamp", "text": "a lantern"}, {"_id": "tuba", "text": "plays the tuba"}]
    (index.parent / "more.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert answer(capsys, "index", "more.jsonl", "--out", "index", "--update")["documents"] == 7
    hits = answer(capsys, "search", "index", "rain", "--mode", "exact")["hits"]
    assert {hit["text"] for hit in hits if hit["id"] in ("lamp", "tuba")} == {"a lantern", "plays the tuba"}
    info = answer(capsys, "info", "index")
    assert info["documents"] == 7 and info["model"] == str(index.parent / "model") and info["text_index"]
    versions = answer(capsys, "info", "index", "--versions")
    assert len(versions) == info["versions"] and versions[-1]["documents"] == 7
    assert main(["info", "index"]) == 0 and "documents       7" in capsys.readouterr().out
    assert main(["info", "index", "--versions"]) == 0 and "7 documents" in capsys.readouterr().out


def test_info_loads_no_model(index, capsys, no_model):
    assert answer(capsys, "info", "index")["documents"] == 6
    (index.parent / "model").rename(index.parent / "moved")
    assert answer(capsys, "info", "index")["documents"] == 6


def test_an_index_whose_model_moved_is_searched_with_it(index, capsys):
    (index.parent / "model").rename(index.parent / "moved")
    assert "is gone" in fault(capsys, "search", "index", "rain")
    assert main(["search", "index", "rain", "--model", "moved"]) == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["index", "nowhere", "--model", "m", "--out", "i"], "nowhere"),
        (["index", "data", "--model", "nowhere", "--out", "i"], "nowhere: no model there"),
        (
            ["index", "data", "--model", "no-such/model", "--out", "i"],
            "no-such/model: no model on the hub or in its cache",
        ),
        (["index", "data", "--out", "i"], "--model: name the retriever"),
        (["index", "data", "--out", "nowhere", "--update"], "nowhere: no such index"),
        (["index", "data"], "required: --out"),
        (["search", "nowhere", "rain"], "nowhere: no such index"),
        (["search", "nowhere", "rain", "--model", "m"], "nowhere: no such index"),
        (["search", "data", "rain"], "data: not an index"),
        (["search", "nowhere"], "required: query"),
        (["info", "nowhere"], "nowhere: no such index"),
        (["train", "data", "--out", "data"], "data: exists already"),
        (["train", "data", "--out", "t", "--steps", "0"], "steps 0"),
        (["train", "data", "--out", "t", "--steps", "many"], "--steps: invalid int value: 'many'"),
        (["train", "data", "--out", "t", "--learning-rate", "nan"], "learning_rate nan"),
        (["train", "data", "--out", "t", "--max-queries-per-dataset", "0"], "max_queries"),
        (["train", "data", "data", "--out", "t"], "different names"),
        (["train", "data", "--out", "t", "--prompt", "nowhere.json"], "nowhere.json: not a readable JSON"),
        (["train", "data", "--out", "t", "--prompt", "list.json"], "list.json: expected a JSON object"),
        (["train", "data", "--out", "t", "--model", "{llm}", "--prompt", "choice.json"], "' undoubtedly' is"),
        (["train", "data", "--out", "t", "--model", "{llm}", "--prompt", "types.json"], "must be a string"),
        (["train", "data", "--out", "t", "--model", "no-such/llm"], "no-such/llm"),
        (["distill", "data", "--teacher", "nowhere/else", "--out", "s"], "nowhere/else"),
        (["distill", "data", "--teacher", "t", "--out", "data"], "data: exists already"),
        (["distill", "data", "--teacher", "t", "--out", "s", "--teacher-calls", "-1"], "teacher_calls -1"),
        (["distill", "nowhere", "--teacher", "t", "--out", "s"], "nowhere"),
        (["evaluate", "data", "--model", "m", "--split", "nope"], "'nope'"),
        (["evaluate", "data", "--model", "m", "--systems", "magic"], "'magic'"),
        (["evaluate", "data", "--model", "m", "--limit", "0"], "a limit of 0"),
        (["demo", "--model", "nowhere"], "nowhere"),
        (["magic"], "invalid choice: 'magic'"),
        (["search", "--magic"], "required: uri, query"),
        (["info", "nowhere", "--magic"], "unrecognized arguments: --magic"),
        ([], "required: COMMAND"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(workspace, llm_folder, capsys, argv, message):
    argv = [str(llm_folder) if argument == "{llm}" else argument for argument in argv]
    before = files(workspace)
    assert message in fault(capsys, *argv)
    assert files(workspace) == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-k", "0"], "k 0"),
        (["-k", "few"], "invalid int value: 'few'"),
        (["--rerank", "0"], "rerank 0"),
        (["--threshold", "2"], "threshold 2.0"),
        (["--refuse", "1"], "refuse 1.0"),
        (["--threshold", "auto"], "invalid float value: 'auto'"),
        (["--mode", "fast"], "--mode: invalid choice: 'fast' (choose from 'auto', 'exact', 'ann', 'bm25', 'encoder')"),
        (["--dtype", "float8"], "--dtype: invalid choice: 'float8'"),
        (["--backend", "gpu"], "--backend: invalid choice: 'gpu'"),
        (["--device", "cdua"], "--device: 'cdua' is no device"),
    ],
)
def test_a_wrong_option_of_a_search_costs_no_model(index, capsys, no_model, argv, message):
    assert message in fault(capsys, "search", "index", "rain", *argv)


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "data", "--out", "t", "--objective", "magic"],
        ["train", "data", "--out", "t", "--dtype", "magic"],
        ["distill", "data", "--teacher", "t", "--out", "s", "--predictor", "magic"],
        ["distill", "data", "--teacher", "t", "--out", "s", "--backend", "magic"],
        ["index", "data", "--model", "m", "--out", "i", "--dtype", "magic"],
        ["evaluate", "data", "--model", "m", "--backend", "magic"],
        ["demo", "--backend", "magic"],
        ["serve", "index", "--backend", "magic"],
    ],
)
def test_a_value_that_is_no_choice_is_refused_with_the_choices(workspace, capsys, no_model, argv):
    line = fault(capsys, *argv)
    assert f"argument {argv[-2]}: invalid choice: 'magic' (choose from " in line and "\n" not in line


def test_a_search_that_the_index_refuses(index, retriever, capsys):
    assert "colour" in fault(capsys, "search", "index", "rain", "--where", "colour = 'red'")
    other = Rabtriever(LLMEncoder(retriever.reranker.llm, "last"), retriever.predictor, reranker=retriever.reranker)
    other.save_pretrained("other")
    assert "index again" in fault(capsys, "search", "index", "rain", "--model", "other")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has such a device")
def test_a_device_that_is_not_there_is_one_line(index, capsys):
    assert "device 'cuda': cannot be used here" in fault(capsys, "search", "index", "rain", "--device", "cuda")
    argv = ["train", "data", "--out", "t", "--model", "model", "--device", "cuda"]
    assert "device 'cuda': cannot be used here" in fault(capsys, *argv)
    assert not list(index.parent.glob("t")) and not list(index.parent.glob("t.partial"))


def test_index_looks_at_out_before_anything_else(index, capsys, no_model):
    line = fault(capsys, "index", "nowhere", "--model", "nowhere", "--out", "index")
    assert "index: exists already" in line and "--update adds documents" in line


def test_a_store_that_holds_an_index_is_found_before_a_model_is_loaded(workspace, retriever, capsys, no_model):
    uri = f"file-object-store://{workspace}/store"
    Index.build(uri, retriever, [Document("a", "find the rain")])
    for taken in (uri, f"file://{workspace}/store"):
        line = fault(capsys, "index", "data", "--model", "model", "--out", taken)
        assert "already; give another" in line and "--update adds documents" in line


def test_a_malformed_corpus_leaves_no_index(workspace, retriever, capsys):
    retriever.save_pretrained("model")
    with (workspace / "data" / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "weather", "text": "again"}\n')
    before = files(workspace)
    line = fault(capsys, "index", "data", "--model", "model", "--out", "index")
    assert "corpus.jsonl" in line and "line 7" in line
    assert files(workspace) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(capsys, command):
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert "--json" in out and "-h, --help" in out
    if command in ("demo", "distill", "evaluate", "index", "search", "serve"):
        assert all(flag in out for flag in ("--device", "--dtype", "--backend"))


def test_help_says_what_train_trains(capsys):
    assert main(["--help"]) == 0
    assert "Train a reranker" in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    code = """
import sys
from rabtriever.cli import main
assert main(["--help"]) == 0
heavy = {"torch", "transformers", "numpy", "lancedb", "numba", "huggingface_hub", "tqdm", "shtab", "httpx2"}
optional = {"fastapi", "mcp", "fastmcp", "langchain_core", "llama_index", "haystack", "litellm", "mteb", "onnx"}
found = (heavy | optional) & set(sys.modules)
assert not found, found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_stdout_that_is_not_utf8_ends_no_command(index, monkeypatch):
    """Windows pipes, and terminals of old locales."""
    Index.open("index", Rabtriever.from_pretrained("model")).upsert([Document("rain", "find the rain \u2602 caf\xe9")])

    def printed(*argv):
        stdout = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", stdout)
            assert main(["search", "index", "rain", *argv]) == 0
            stdout.flush()
        return stdout.buffer.getvalue()

    assert rb"find the rain \u2602 caf" + "\xe9".encode("cp1252") in printed()
    found = json.loads(printed("--json").decode("ascii"))
    assert "find the rain \u2602 caf\xe9" in [hit["text"] for hit in found["hits"]]


def test_any_number_of_hits_can_be_asked_for(index, capsys):
    for k in (2**31, 2**63, 10**30):
        for mode in ("exact", "bm25", "ann"):
            assert 0 < len(answer(capsys, "search", "index", "weather", "-k", str(k), "--mode", mode)["hits"]) <= 6


def test_a_warning_is_one_line_without_source(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    assert main(["info", str(tmp_path / "nowhere")]) == 2
    assert (
        warnings.formatwarning("2 judged documents", UserWarning, "beir.py", 1)
        == "rabtriever info: 2 judged documents\n"
    )


def test_documents_without_requests_name_what_is_missing(tmp_path, capsys):
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "b"}\n')
    assert main(["distill", str(tmp_path / "corpus.jsonl"), "--teacher", "minilm", "--out", str(tmp_path / "r")]) == 2
    assert "documents without requests; give --queries FILE, or --generate N" in capsys.readouterr().err
