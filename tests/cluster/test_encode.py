"""A corpus encoded on a cluster, whatever fails: each document once."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rabtriever.cli import main
from rabtriever.cluster import encode, running, segments, session
from rabtriever.cluster.encode import encode_corpus
from rabtriever.cluster.encoder import PartEncoder
from rabtriever.cluster.journal import Journal, begin, end, unfinished_job
from rabtriever.cluster.running import BrokenWorkerError, Workers, run_tasks, run_workers
from rabtriever.errors import BusyError, ConflictError, InputError, StorageError
from rabtriever.index import Index
from rabtriever.persistence.files import Folder
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


def n_parts_done(uri) -> int:
    job = unfinished_job(str(uri))
    return len(Journal(job).folder.names("parts")) if job else 0


@pytest.fixture
def alone(monkeypatch):
    """Tasks and workers run in this process, which starts no cluster; all else is as there."""

    def tasks(function, items, n, size=None):
        for item in items:
            result = pickle.loads(running._call(function, pickle.dumps(item))["result"])
            if isinstance(result, running._Failed):
                raise result.error
            yield result

    def one_round(worker, arguments, items, workers):
        made = running._Worker(worker, arguments)
        for item in items:
            yield pickle.loads(made(pa.table({"item": [pickle.dumps(item)]}))["result"][0].as_py())

    def exit_worker(code):
        raise RuntimeError("its worker ended")

    for module in (encode, segments):
        monkeypatch.setattr(module, "run_tasks", tasks)
    monkeypatch.setattr(running, "_round", one_round)
    monkeypatch.setattr(running.os, "_exit", exit_worker)
    monkeypatch.setattr(Workers, "capacity", lambda self: 2)
    monkeypatch.setattr(session, "connected", lambda address: nullcontext())
    monkeypatch.setattr(segments, "connected", lambda address: nullcontext())


@pytest.fixture(scope="module")
def model(llm_folder, tmp_path_factory) -> Path:
    from tiny import make_reranker, make_retriever

    folder = tmp_path_factory.mktemp("model") / "retriever"
    make_retriever(make_reranker(llm_folder)).save_pretrained(folder)
    return folder


def test_a_cluster_makes_the_index_of_one_process(cluster, model, tmp_path):
    corpus = write_corpus(tmp_path / "corpus.jsonl", make_rows(120))
    retriever = Rabtriever.from_pretrained(model)
    expected = Index.build(tmp_path / "alone", retriever, read_source(corpus))
    queries = retriever.encode_query(QUERIES)
    scores = retriever.similarity(queries, expected.latents(expected.ids())[0])
    for n_workers in (1, 2, 4):
        done = encode_corpus(corpus, model, tmp_path / str(n_workers), workers=Workers(n_workers, cpus=0.5))
        assert done.changes.added == done.documents == 120
        assert done.parts >= n_workers
        index = Index.open(tmp_path / str(n_workers), retriever)
        assert index.ids() == expected.ids()
        np.testing.assert_allclose(
            retriever.similarity(queries, index.latents(index.ids())[0]), scores, rtol=0, atol=1e-4
        )
        assert index.get(["d7"]) == expected.get(["d7"])
        for mode in ("exact", "bm25"):
            found = [one.search(QUERIES, 30, mode=mode) for one in (index, expected)]
            for mine, theirs in zip(*found, strict=True):
                require_same_hits(mine, theirs)
                require_same_hits(theirs, mine)
        about = [
            {**one.table.info(), "uri": 0, "version": 0, "versions": 0, "table_bytes": 0} for one in (index, expected)
        ]
        assert about[0] == about[1]
        assert not (tmp_path / str(n_workers) / "encoding").exists()
    index.add([next(iter(read_source(write_corpus(tmp_path / "one.jsonl", [{"_id": "late", "text": "a tool"}]))))])
    assert index.ids()[-1] == "late"


def require_same_hits(hits, others):
    """Each hit whose score is above the last one's by more than the tolerance is among the others, with its score."""
    scores = {hit.id: hit.log_odds for hit in others}
    certain = [hit for hit in hits if hit.log_odds > hits[-1].log_odds + 1e-4]
    assert len(certain) > 1
    assert all(abs(scores[hit.id] - hit.log_odds) < 1e-4 for hit in certain)


def test_a_node_is_lost(cluster, corpus, tmp_path):
    node = cluster.add_node(**NODE)
    log, uri = tmp_path / "log", tmp_path / "index"

    def lose() -> None:
        when(lambda: n_parts_done(uri) >= 2)
        cluster.remove_node(node)

    loser = threading.Thread(target=lose)
    loser.start()
    done = encode_corpus(corpus, letters(log, seconds=0.2), uri, workers=Workers(4))
    loser.join()
    assert done.documents == 240
    assert ids(uri) == [f"d{i}" for i in range(240)]
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

    (tmp_path / "load").write_bytes(ray.cloudpickle.dumps(letters(log, seconds=0.4)))
    job = subprocess.Popen([sys.executable, str(script)])
    try:
        when(lambda: n_parts_done(uri) >= 2)
    finally:
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
    with pytest.raises(BusyError, match="still being made"):
        Index.open(uri)
    changed = write_corpus(tmp_path / "changed.jsonl", make_rows(239))
    with pytest.raises(InputError, match="another source, or this one has changed"):
        encode_corpus(changed, letters(log), uri, workers=TWO)
    time.sleep(1.0)  # its workers end
    journal = Journal(unfinished_job(str(uri)))
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


def test_a_worker_dies_of_a_part_again_and_again(cluster, tmp_path):
    corpus = write_corpus(tmp_path / "corpus.jsonl", make_rows(10))
    with pytest.raises(InputError, match=r"corpus.jsonl, bytes 0 to \d+: failed 3 times \(its worker ended\)"):
        encode_corpus(corpus, letters(tmp_path / "log", fatal="7"), tmp_path / "index", workers=TWO)


def test_what_workers_and_tasks_raise_is_one_line(cluster):
    def no_driver():
        raise ValueError("no GPU\ndriver")

    def no_disk(item):
        raise OSError("the disk\nis gone")

    def not_there(item):
        raise StorageError("the store: away")

    with pytest.raises(InputError, match=r"^item 1: failed 3 times \(ValueError: no GPU driver\)"):
        list(run_workers(no_driver, (), lambda: [1, 2], Workers(1), lambda item: f"item {item}", "there"))
    with pytest.raises(InputError, match="^OSError: the disk is gone$"):
        list(run_tasks(no_disk, [1], 1))
    with pytest.raises(StorageError, match="^the store: away$"):
        list(run_tasks(not_there, [1], 1))


def test_an_object_store(cluster, bucket, tmp_path):
    rows, (files, path) = make_rows(60), filesystem(bucket)
    with files.open_output_stream(f"{path}/corpus/b.jsonl") as file:
        file.write(write_corpus(tmp_path / "corpus.jsonl", rows[20:]).read_bytes())
    with files.open_output_stream(f"{path}/corpus/a.parquet") as file:
        pq.write_table(pa.Table.from_pylist(rows[:20]), file, row_group_size=7)
    log = tmp_path / "log"
    encode_corpus(f"{bucket}/corpus", letters(log, fails="7"), f"{bucket}/index", workers=TWO)
    assert ids(f"{bucket}/index") == [f"d{i}" for i in range(60) if i != 7]
    assert unfinished_job(f"{bucket}/index") is None
    done = encode_corpus(f"{bucket}/corpus", letters(log), f"{bucket}/index", update=True, delete=True, workers=TWO)
    assert (done.changes.added, done.changes.unchanged, done.documents) == (1, 59, 60)


def test_an_id_comes_twice(alone, corpus, tmp_path):
    rows = make_rows(240)
    rows[200]["_id"] = "d3"
    write_corpus(corpus, rows)
    with pytest.raises(InputError, match=r"document id 'd3': \S+, byte \d+ and \S+, byte \d+; ids should be unique"):
        encode_corpus(corpus, letters(tmp_path / "log"), tmp_path / "index")
    assert not (tmp_path / "index").exists()
    assert not (tmp_path / "log").exists()


def test_an_index_is_brought_up_to_date(alone, corpus, tmp_path):
    uri, log, rows = tmp_path / "index", tmp_path / "log", make_rows(240)
    encode_corpus(corpus, letters(log), uri)
    with pytest.raises(ConflictError, match="exists already"):
        encode_corpus(corpus, letters(log), uri)
    with pytest.raises(InputError, match="made by model"):
        encode_corpus(corpus, letters(log, name="another"), uri, update=True)
    shutil.rmtree(uri / "encoding")
    del rows[50:60]
    rows[10]["text"], rows[20]["n"] = "another text 10", -1
    rows.append({"_id": "d240", "title": "new", "text": "new 240"})
    write_corpus(corpus, rows)
    log.unlink()
    done = encode_corpus(corpus, letters(log), uri, update=True)
    assert done.changes.__dict__ == {"added": 1, "changed": 2, "removed": 0, "unchanged": 228, "missing": 10}
    assert sorted(encodings(log)) == ["d10", "d20", "d240"]
    assert len(ids(uri)) == len(set(ids(uri))) == 241
    done = encode_corpus(corpus, letters(log), uri, update=True, delete=True)
    assert done.changes.__dict__ == {"added": 0, "changed": 0, "removed": 10, "unchanged": 231, "missing": 0}
    index = Index.open(uri)
    assert sorted(index.ids()) == sorted(row["_id"] for row in rows)
    assert index.get(["d10"])[0].text == "another text 10"
    assert index.get(["d20"])[0].metadata == {"n": -1}
    done = encode_corpus(corpus, letters(log), uri, update=True, delete=True)
    assert not done.changes.any
    with Index.open(uri).table.writing(), pytest.raises(BusyError):
        encode_corpus(corpus, letters(log), uri, update=True)


def interrupted(patch, uri: Path, *arguments, **options):
    """Encodes, and is killed where the job would end; returns the job."""

    def kill(job):
        raise KeyboardInterrupt

    with patch.context() as patched:
        patched.setattr(encode, "end", kill)
        with pytest.raises(KeyboardInterrupt):
            encode_corpus(*arguments, uri, **options)
    return unfinished_job(str(uri))


def test_a_committed_job_is_not_given_up_whenever_it_is_killed(alone, corpus, tmp_path, monkeypatch):
    uri, load = tmp_path / "index", letters(tmp_path / "log")
    job = interrupted(monkeypatch, uri, corpus, load)
    deleted = []
    monkeypatch.setattr(Folder, "remove", lambda self, inner="": deleted.append(self.uri))
    end(job)  # killed in the middle: its pointer goes first
    assert unfinished_job(str(uri)) is None and Journal(job).folder.names("parts")
    monkeypatch.undo()
    begin(job)  # no record of it is left
    with pytest.raises(StorageError, match="the record of an encoded part is gone"):
        Journal(job).records(job.parts)
    assert len(Index.open(uri)) == 240


def test_a_finished_job_goes_on_to_its_end(alone, corpus, tmp_path, monkeypatch):
    uri, log = tmp_path / "index", tmp_path / "log"
    job = interrupted(monkeypatch, uri, corpus, letters(log))
    shutil.rmtree(uri / "encoding" / job.id / "parts")
    with pytest.raises(StorageError, match="the record of an encoded part is gone"):
        encode_corpus(corpus, letters(log), uri)
    assert len(ids(uri)) == 240  # what is committed stays
    shutil.rmtree(uri)
    interrupted(monkeypatch, uri, corpus, letters(log))
    log.unlink()
    assert encode_corpus(corpus, letters(log), uri).documents == 240
    assert not log.exists() and not (uri / "encoding").exists()


def test_a_job_takes_nothing_of_an_earlier_one(alone, corpus, tmp_path, monkeypatch):
    uri, load = tmp_path / "index", letters(tmp_path / "log")
    job = interrupted(monkeypatch, uri, corpus, load)
    (uri / "encoding" / "job.json").unlink()
    write_corpus(corpus, [{**row, "text": f"x {row['text']}"} for row in make_rows(240)])
    done = encode_corpus(corpus, load, uri, update=True)
    assert (done.changes.changed, done.documents, len(set(ids(uri)))) == (240, 240, 240)
    begin(replace(job, id="another"))
    assert Folder(uri / "encoding").names() == ["job.json"]


def test_a_store_that_is_away_keeps_the_job(alone, corpus, tmp_path, monkeypatch):
    uri, load = tmp_path / "index", letters(tmp_path / "log")

    def away(*arguments):
        raise StorageError("the store: away")

    with monkeypatch.context() as patch:
        patch.setattr(encode, "first_duplicate", away)
        with pytest.raises(StorageError):
            encode_corpus(corpus, load, uri)
    job = unfinished_job(str(uri))
    assert Journal(job).folder.names("ids")
    failures = []

    def twice_away(self, part, record):
        if len(failures) < 2:
            failures.append(part)
            away()
        finish(self, part, record)

    finish = Journal.finish
    monkeypatch.setattr(Journal, "finish", twice_away)
    assert encode_corpus(corpus, load, uri).documents == 240
    assert len(failures) == 2


def test_a_source_that_changes_is_noticed(alone, corpus, tmp_path, monkeypatch):
    def change(self, part, record):
        os.utime(corpus, ns=(1, 1))
        finish(self, part, record)

    finish = Journal.finish
    monkeypatch.setattr(Journal, "finish", change)
    with pytest.raises(InputError, match="this one has changed since"):
        encode_corpus(corpus, letters(tmp_path / "log"), tmp_path / "index")
    with pytest.raises(BusyError, match="still being made"):
        Index.open(tmp_path / "index")


def test_a_broken_device_is_no_broken_document(alone, corpus, tmp_path, monkeypatch):
    job = interrupted(monkeypatch, tmp_path / "first", corpus, letters(tmp_path / "log"))
    job = replace(job, uri=str(tmp_path / "index"))
    begin(job)
    encoder = PartEncoder(job, letters(tmp_path / "log"), 1)
    assert encoder(job.parts[0])

    def broken(texts):
        raise RuntimeError("CUDA error")

    works, encoder.retriever.encode_document = encoder.retriever.encode_document, broken
    with pytest.raises(BrokenWorkerError, match="CUDA error"):
        encoder(job.parts[1])
    assert Journal(job).folder.names("parts") == ["000000"]
    encoder.retriever.encode_document = works
    assert encoder(job.parts[1])
    assert Journal(job).records(job.parts[:2])[1].failed == []
    with pytest.raises(InputError, match="made by model"):
        PartEncoder(job, letters(tmp_path / "log", name="another"), 1)


def test_an_index_that_workers_write_elsewhere(alone):
    def worker():
        return lambda item: item

    with pytest.raises(InputError, match="item 1: .*without a record: /here must be a folder that all machines see"):
        list(run_workers(worker, (), lambda: [1, 2], Workers(1), lambda item: f"item {item}", "/here"))


def test_how_many_workers_a_cluster_can_run(monkeypatch):
    import ray

    def node(alive=True, **resources):
        return {"Alive": alive, "Resources": resources}

    nodes = [node(CPU=3.0, GPU=1.0), node(CPU=3.0), node(alive=False, CPU=64.0)]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert [Workers(cpus=cpus).capacity() for cpus in (1, 2, 3)] == [6, 2, 2]
    assert [Workers(2).capacity(), Workers(cpus=1, gpus=0.5).capacity()] == [2, 2]
    with pytest.raises(InputError, match="no room"):
        Workers(cpus=4).capacity()
    for wrong in (float("nan"), float("inf"), -1):
        with pytest.raises(InputError, match="give a number, 0 or more"):
            Workers(cpus=wrong)


def test_the_command(alone, poisoned_folder, tmp_path, capsys):
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
