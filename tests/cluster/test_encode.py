"""A corpus encoded on a cluster, whatever fails: each document once."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rabtriever.cli import main
from rabtriever.cluster.encode import encode_corpus
from rabtriever.cluster.journal import Journal
from rabtriever.cluster.running import Workers
from rabtriever.errors import BusyError, ConflictError, InputError
from rabtriever.index import Index
from rabtriever.persistence.object_store import filesystem
from rabtriever.retriever import Rabtriever
from rabtriever.sources import read_source

from .conftest import NODE, make_rows, write_corpus  # noqa: TID252 - beside it

TWO = Workers(2)
QUERIES = ["please find a hotel", "cook bread", "what is the weather"]


def letters(log: Path, seconds: float = 0.0, fatal: str = "", once: str = "", fails: str = "", name: str = "letters"):
    """Loads a retriever that counts letters and logs what it encodes.

    A text with the word ``fatal`` ends its process, one with ``once`` the first time, and one with ``fails`` raises.

    Workers get it by value, so all of it is inside this function.
    """

    def load():
        import hashlib
        import os
        import time
        from types import SimpleNamespace

        import numpy as np

        from rabtriever.scoring.layout import ScoreLayout

        def encode(texts):
            with log.open("a") as file:
                file.writelines(f"{text.rpartition(' ')[2]}\n" for text in texts)
            time.sleep(seconds)
            for text in texts:
                if fatal and fatal in text.split():
                    os._exit(1)
                if once and once in text.split() and not log.with_suffix(".once").exists():
                    log.with_suffix(".once").touch()
                    os._exit(1)
                if fails and fails in text.split():
                    raise RuntimeError("out of order")
            counts = [[text.count(letter) for letter in "aeioust"] + [0.0, 0.0] for text in texts]
            return np.array(counts, np.float32)

        fingerprint = hashlib.sha256(name.encode()).hexdigest()
        layout = ScoreLayout(n_inner=7)
        return SimpleNamespace(fingerprint=fingerprint, layout=layout, name_or_path=None, encode_document=encode)

    return load


def encodings(log: Path) -> list[str]:
    """Ids of the documents that were encoded."""
    return [f"d{number}" for number in log.read_text().split()]


def when(condition, seconds: float = 180.0) -> None:
    """Waits for a condition."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def ids(uri) -> list[str]:
    return Index.open(uri).ids()


@pytest.fixture(scope="module")
def model(llm_folder, tmp_path_factory) -> Path:
    from tiny import make_reranker, make_retriever

    folder = tmp_path_factory.mktemp("model") / "retriever"
    make_retriever(make_reranker(llm_folder)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("n_workers", [1, 2, 4])
def test_a_cluster_makes_the_index_of_one_process(cluster, corpus, model, tmp_path, n_workers):
    retriever = Rabtriever.from_pretrained(model)
    alone = Index.build(tmp_path / "alone", retriever, read_source(corpus))
    done = encode_corpus(corpus, model, tmp_path / "index", workers=Workers(n_workers, cpus=0.5))
    assert done.changes.added == done.documents == 240
    assert done.parts > n_workers
    index = Index.open(tmp_path / "index", retriever)
    assert index.ids() == alone.ids()
    assert index.get(["d7"]) == alone.get(["d7"])
    for mode in ("exact", "bm25"):
        for mine, theirs in zip(
            index.search(QUERIES, 50, mode=mode), alone.search(QUERIES, 50, mode=mode), strict=True
        ):
            scores = [{hit.id: hit.log_odds for hit in hits} for hits in (mine, theirs)]
            assert scores[0].keys() == scores[1].keys() or mode == "exact"
            assert all(abs(scores[0][name] - scores[1].get(name, scores[0][name])) < 1e-4 for name in scores[0])
    info, expected = index.table.info(), alone.table.info()
    assert {**info, "uri": 0, "version": 0, "versions": 0, "table_bytes": 0} == {
        **expected, "uri": 0, "version": 0, "versions": 0, "table_bytes": 0
    }  # fmt: skip
    index.add([next(iter(read_source(write_corpus(tmp_path / "one.jsonl", [{"_id": "late", "text": "a tool"}]))))])
    assert index.ids()[-1] == "late"
    assert not (tmp_path / "index" / "encoding").exists()


def test_a_folder_of_files(cluster, tmp_path):
    rows = make_rows(240)
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_corpus(folder / "b.jsonl", rows[100:])
    pq.write_table(pa.Table.from_pylist(rows[:100]), folder / "a.parquet", row_group_size=30)
    log = tmp_path / "log"
    encode_corpus(folder, letters(log), tmp_path / "index", workers=TWO)
    assert ids(tmp_path / "index") == [row["_id"] for row in rows]
    encode_corpus(tmp_path / "index", letters(log), tmp_path / "copy", workers=TWO)
    assert ids(tmp_path / "copy") == [row["_id"] for row in rows]
    every = Index.open(tmp_path / "index").get(ids(tmp_path / "index"))
    assert Index.open(tmp_path / "copy").get(ids(tmp_path / "copy")) == every


def test_a_node_is_lost(cluster, corpus, tmp_path):
    node = cluster.add_node(**NODE)
    journal, log = Journal(str(tmp_path / "index")), tmp_path / "log"

    def lose() -> None:
        when(lambda: len(journal.folder.names("parts")) >= 2)
        cluster.remove_node(node)

    loser = threading.Thread(target=lose)
    loser.start()
    done = encode_corpus(corpus, letters(log, seconds=0.3), tmp_path / "index", workers=Workers(4))
    loser.join()
    assert done.documents == 240
    assert ids(tmp_path / "index") == [f"d{i}" for i in range(240)]
    assert 240 <= len(encodings(log)) < 480


def test_the_driver_is_killed(cluster, corpus, tmp_path):
    log, uri = tmp_path / "log", tmp_path / "index"
    script = tmp_path / "job.py"
    script.write_text(
        "import pickle, sys, ray\n"
        f"ray.init({cluster.address!r}, log_to_driver=False)\n"
        "from rabtriever.cluster.encode import encode_corpus\n"
        "from rabtriever.cluster.running import Workers\n"
        f"load = ray.cloudpickle.loads(open({str(tmp_path / 'load')!r}, 'rb').read())\n"
        f"encode_corpus({str(corpus)!r}, load, {str(uri)!r}, workers=Workers(2))\n"
    )
    import ray

    (tmp_path / "load").write_bytes(ray.cloudpickle.dumps(letters(log, seconds=0.5)))
    job, journal = subprocess.Popen([sys.executable, str(script)]), Journal(str(uri))
    try:
        when(lambda: len(journal.folder.names("parts")) >= 2)
    finally:
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
    with pytest.raises(BusyError, match="still being made"):
        Index.open(uri)
    with pytest.raises(InputError, match="made by model"):
        encode_corpus(corpus, letters(log, name="another"), uri, workers=TWO)
    changed = write_corpus(tmp_path / "changed.jsonl", make_rows(239))
    with pytest.raises(InputError, match="another source, or this one has changed"):
        encode_corpus(changed, letters(log), uri, workers=TWO)
    time.sleep(1.5)  # its workers end
    n_finished = sum(json.loads(journal.folder.read(f"parts/{n}"))["added"] for n in journal.folder.names("parts"))
    before = len(encodings(log))
    encode_corpus(corpus, letters(log), uri, workers=TWO)
    assert ids(uri) == [f"d{i}" for i in range(240)]
    assert len(encodings(log)) - before == 240 - n_finished
    latents, _ = Index.open(uri).latents(ids(uri))
    assert np.isfinite(latents).all()


def test_a_document_fails_and_a_worker_dies(cluster, corpus, tmp_path):
    load = letters(tmp_path / "log", fails="77", once="150")
    done = encode_corpus(corpus, load, tmp_path / "index", workers=TWO)
    assert (tmp_path / "log.once").exists()
    assert [(one.id, "out of order" in one.reason) for one in done.failed] == [("d77", True)]
    assert ids(tmp_path / "index") == [f"d{i}" for i in range(240) if i != 77]
    again = encode_corpus(corpus, letters(tmp_path / "log"), tmp_path / "index", update=True, workers=TWO)
    assert (again.changes.added, again.changes.unchanged) == (1, 239)


def test_a_worker_dies_of_a_part_again_and_again(cluster, corpus, tmp_path):
    uri = tmp_path / "index"
    with pytest.raises(InputError, match=r"corpus.jsonl, bytes \d+ to \d+: failed 3 times \(its worker ended\)"):
        encode_corpus(corpus, letters(tmp_path / "log", fatal="100"), uri, workers=TWO)
    encode_corpus(corpus, letters(tmp_path / "log"), uri, workers=TWO)  # mended
    assert ids(uri) == [f"d{i}" for i in range(240)]


def test_an_object_store(cluster, bucket, tmp_path):
    corpus = write_corpus(tmp_path / "corpus.jsonl", make_rows(60))
    files, path = filesystem(bucket)
    with files.open_output_stream(f"{path}/corpus/a.jsonl") as file:
        file.write(corpus.read_bytes())
    log = tmp_path / "log"
    encode_corpus(f"{bucket}/corpus", letters(log, fails="7"), f"{bucket}/index", workers=TWO)
    assert ids(f"{bucket}/index") == [f"d{i}" for i in range(60) if i != 7]
    assert Journal(f"{bucket}/index").job() is None
    done = encode_corpus(f"{bucket}/corpus", letters(log), f"{bucket}/index", update=True, delete=True, workers=TWO)
    assert (done.changes.added, done.changes.unchanged, done.documents) == (1, 59, 60)


def test_an_id_comes_twice(cluster, corpus, tmp_path):
    rows = make_rows(240)
    rows[200]["_id"] = "d3"
    write_corpus(corpus, rows)
    with pytest.raises(InputError, match=r"document id 'd3': \S+, byte \d+ and \S+, byte \d+; ids should be unique"):
        encode_corpus(corpus, letters(tmp_path / "log"), tmp_path / "index", workers=TWO)
    assert not (tmp_path / "index").exists()
    assert not (tmp_path / "log").exists()


def test_an_index_is_brought_up_to_date(cluster, corpus, tmp_path):
    uri, log, rows = tmp_path / "index", tmp_path / "log", make_rows(240)
    encode_corpus(corpus, letters(log), uri, workers=TWO)
    with pytest.raises(ConflictError, match="exists already"):
        encode_corpus(corpus, letters(log), uri, workers=TWO)
    del rows[50:60]
    rows[10]["text"], rows[20]["n"] = "another text 10", -1
    rows.append({"_id": "d240", "title": "new", "text": "new 240"})
    write_corpus(corpus, rows)
    log.unlink()
    done = encode_corpus(corpus, letters(log), uri, update=True, workers=TWO)
    assert done.changes.__dict__ == {"added": 1, "changed": 2, "removed": 0, "unchanged": 228, "missing": 10}
    assert sorted(encodings(log)) == ["d10", "d20", "d240"]
    assert len(ids(uri)) == len(set(ids(uri))) == 241
    done = encode_corpus(corpus, letters(log), uri, update=True, delete=True, workers=TWO)
    assert done.changes.__dict__ == {"added": 0, "changed": 0, "removed": 10, "unchanged": 231, "missing": 0}
    index = Index.open(uri)
    assert sorted(index.ids()) == sorted(row["_id"] for row in rows)
    assert index.get(["d10"])[0].text == "another text 10"
    assert index.get(["d20"])[0].metadata == {"n": -1}
    done = encode_corpus(corpus, letters(log), uri, update=True, delete=True, workers=TWO)
    assert not done.changes.any


def test_another_writer_waits(cluster, corpus, tmp_path):
    encode_corpus(corpus, letters(tmp_path / "log"), tmp_path / "index", workers=TWO)
    with Index.open(tmp_path / "index").table.writing(), pytest.raises(BusyError):
        encode_corpus(corpus, letters(tmp_path / "log"), tmp_path / "index", update=True, workers=TWO)


def test_the_command(cluster, poisoned_folder, tmp_path, capsys):
    from tiny import make_reranker, make_retriever

    make_retriever(make_reranker(poisoned_folder)).save_pretrained(tmp_path / "model")
    rows = [{"_id": f"d{i}", "text": f"find the lamp {i}"} for i in range(40)]
    rows[17]["text"] = "cook bread"
    corpus = write_corpus(tmp_path / "corpus.jsonl", [*rows, {"_id": "blank", "text": " "}])
    flags = ["--model", str(tmp_path / "model"), "--out", str(tmp_path / "index"), "--ray", "--ray-workers", "2"]
    assert main(["index", str(corpus), *flags, "--json"]) == 1
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert (result["documents"], result["added"]) == (39, 39)
    assert [one["id"] for one in result["failed"]] == ["d17", ""]
    assert printed.err.count("not indexed") == 2
    assert "neither title nor text" in printed.err


def test_no_cluster_there(corpus, tmp_path):
    command = ["index", str(corpus), "--model", "minilm", "--out", str(tmp_path / "index"), "--ray", "127.0.0.1:9"]
    done = subprocess.run([sys.executable, "-m", "rabtriever.cli", *command], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--ray 127.0.0.1:9: no Ray cluster there" in done.stderr
    assert not (tmp_path / "index").exists()
