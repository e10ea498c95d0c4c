"""BEIR folders: what is read, what is tolerated, and how each fault is reported."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rabtriever.data import Document, add_requests, concatenate, load_corpus, load_data, load_requests, read_corpus
from rabtriever.errors import InputError

CORPUS = (
    '{"_id": "lamp", "title": "Lamp", "text": "gives light", "metadata": {"room": "hall"}}\n'
    '{"_id": "rope", "text": "ties things"}\n'
)
QUERIES = '{"_id": "q1", "text": "it is dark", "metadata": {"any": [1]}}\n{"_id": "q2", "text": "it falls off"}\n'
HEADER = "query-id\tcorpus-id\tscore\n"
QRELS = HEADER + "q1\tlamp\t1\nq1\trope\t0\nq2\trope\t2\n"
Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Writes a BEIR folder; None leaves a file out."""

    def write(corpus: str | bytes | None = CORPUS, queries: str | bytes | None = QUERIES, **qrels: str) -> Path:
        path = tmp_path / "shop"
        (path / "qrels").mkdir(parents=True)
        files = {"corpus.jsonl": corpus, "queries.jsonl": queries}
        for name, content in (files | {f"qrels/{split}.tsv": rows for split, rows in qrels.items()}).items():
            if content is not None:
                (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_a_folder_is_read_whole(folder: Folder) -> None:
    data = load_data(folder(test=QRELS, dev=HEADER))
    assert data.name == "shop"
    assert data.documents == {
        "lamp": Document("lamp", "gives light", "Lamp", {"room": "hall"}),
        "rope": Document("rope", "ties things"),
    }
    assert list(data.documents) == ["lamp", "rope"]
    assert data.queries == {"q1": "it is dark", "q2": "it falls off"}
    assert data.qrels == {"dev": {}, "test": {"q1": {"lamp": 1, "rope": 0}, "q2": {"rope": 2}}}


def test_the_folder_may_be_named_by_a_string_or_from_inside(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(test=QRELS)
    monkeypatch.chdir(path)
    assert load_data(".") == load_data(str(path))


def test_marks_and_line_ends_of_other_systems_and_blank_lines_are_tolerated(folder: Folder) -> None:
    def foreign(content: str) -> str:
        return "\ufeff" + (content + "\n").replace("\n", "\r\n")

    data = load_data(folder(foreign(CORPUS), foreign(QUERIES), test=foreign(QRELS)))
    assert list(data.documents) == ["lamp", "rope"]
    assert data.queries["q2"] == "it falls off"
    assert data.qrels["test"]["q2"] == {"rope": 2}


def test_a_line_ends_only_at_a_newline(folder: Folder) -> None:
    data = load_data(folder(queries='{"_id": "q1", "text": "one\u2028two\x85three"}'))
    assert data.queries == {"q1": "one\u2028two\x85three"}


def test_judgements_are_optional(folder: Folder) -> None:
    path = folder()
    assert load_data(path).qrels == {}
    (path / "qrels").rmdir()
    assert load_data(path).qrels == {}


def test_hidden_and_other_files_beside_the_judgements_are_passed_over(folder: Folder) -> None:
    path = folder(test=QRELS)
    (path / "qrels" / "._test.tsv").write_bytes(b"\x00\x05")
    (path / "qrels" / "notes.txt").write_text("none")
    assert list(load_data(path).qrels) == ["test"]


def test_null_title_and_metadata_are_none_given(folder: Folder) -> None:
    path = folder('{"_id": "a", "title": null, "text": "ties", "metadata": null}')
    assert list(read_corpus(path)) == [Document("a", "ties")]


def test_a_judgement_said_twice_alike_is_one(folder: Folder) -> None:
    assert load_data(folder(test=QRELS + "q2\trope\t2\n")).qrels["test"]["q2"] == {"rope": 2}


def test_a_corpus_is_read_from_a_file_or_a_folder_without_queries(folder: Folder) -> None:
    path = folder(queries=None)
    assert [document.id for document in read_corpus(path)] == ["lamp", "rope"]
    assert list(read_corpus(str(path / "corpus.jsonl"))) == list(read_corpus(path))


def test_a_corpus_is_streamed(folder: Folder) -> None:
    documents = read_corpus(folder(CORPUS + "broken"))
    assert next(documents).id == "lamp"
    assert next(documents).id == "rope"
    with pytest.raises(InputError, match=r"line 3: malformed JSON"):
        next(documents)


def test_a_missing_corpus_is_reported_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"corpus\.jsonl is missing"):
        read_corpus(tmp_path)
    with pytest.raises(InputError, match=r"none\.jsonl is missing"):
        read_corpus(tmp_path / "none.jsonl")


def test_what_is_no_folder_and_what_lacks_queries_is_refused(folder: Folder) -> None:
    path = folder(queries=None)
    with pytest.raises(InputError, match=r"queries\.jsonl is missing"):
        load_data(path)
    for source in (path / "corpus.jsonl", path / "none"):
        with pytest.raises(InputError, match="is no folder: give a BEIR folder"):
            load_data(source)


CORPUS_FAULTS = {
    "": r" is empty",
    "\n\n": r" is empty",
    '{"_id": "a"': r", line 1: malformed JSON",
    '{"_id": "a", "text": "b"}\n\n{"_id"}': r", line 3: malformed JSON",
    '["a"]': r", line 1: not a JSON object",
    '{"text": "b"}': r", line 1: no _id",
    '{"_id": "", "text": "b"}': r", line 1: _id is ''",
    '{"_id": " ", "text": "b"}': r", line 1: _id is ' '",
    '{"_id": 7, "text": "b"}': r", line 1: _id is 7; it should be a string",
    '{"_id": null, "text": "b"}': r", line 1: _id is None",
    '{"_id": "a", "text": "b"}\n{"_id": "c", "text": "d"}\n{"_id": "a", "text": "e"}': (
        r", line 3: _id 'a' was used before \(line 1\)"
    ),
    '{"_id": "a", "title": " ", "text": ""}': r", line 1: title and text of document 'a' are both blank",
    '{"_id": "a"}': r", line 1: title and text of document 'a' are both blank",
    '{"_id": "a", "text": 5}': r", line 1: text is 5; it should be a string",
    '{"_id": "a", "text": "b", "title": ["t"]}': r", line 1: title is \['t'\]; it should be a string",
    '{"_id": "a", "text": "b", "metadata": "m"}': r", line 1: metadata is 'm'; it should be a JSON object",
    '{"_id": "a", "text": "\\ud83d"}': r", line 1: text holds half of a surrogate pair",
    b'{"_id": "a", "text": "b"}\n{"_id": "c", "text": "caf\xe9"}': r", line 2: not UTF-8",
}


@pytest.mark.parametrize(("content", "message"), CORPUS_FAULTS.items())
def test_faults_of_a_corpus(folder: Folder, content: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=r"corpus\.jsonl" + message):
        load_data(folder(content, test=QRELS))


QUERY_FAULTS = {
    "": r" is empty",
    "{": r", line 1: malformed JSON",
    '{"_id": "q1", "text": " "}': r", line 1: the text of query 'q1' is blank",
    '{"_id": "q1"}': r", line 1: the text of query 'q1' is blank",
    '{"_id": "q1", "text": "a"}\n{"_id": "q1", "text": "b"}': r", line 2: _id 'q1' was used before \(line 1\)",
    '{"_id": 1, "text": "a"}': r", line 1: _id is 1",
}


@pytest.mark.parametrize(("content", "message"), QUERY_FAULTS.items())
def test_faults_of_queries(folder: Folder, content: str, message: str) -> None:
    with pytest.raises(InputError, match=r"queries\.jsonl" + message):
        load_data(folder(queries=content))


QRELS_FAULTS = {
    "": r", line 1: no header; it should read query-id<TAB>corpus-id<TAB>score",
    "q1\tlamp\t1\n": r", line 1: no header",
    "query-id corpus-id score\n": r", line 1: no header",
    HEADER + "q1 lamp 1\n": r", line 2: 1 tab-separated columns",
    HEADER + "q1\t0\tlamp\t1\n": r", line 2: 4 tab-separated columns",
    HEADER + "q1\tlamp\t1\nq1\trope\t0.5\n": r", line 3: score '0\.5' is not an integer",
    HEADER + "q1\tlamp\t\n": r", line 2: score '' is not an integer",
    HEADER + "q9\tlamp\t1\n": r", line 2: query 'q9' is not in queries\.jsonl",
    HEADER + "q1\tlamp\t1\nq1\tlamp\t2\n": r", line 3: query 'q1' and document 'lamp' have another score above",
}


@pytest.mark.parametrize(("content", "message"), QRELS_FAULTS.items())
def test_faults_of_judgements(folder: Folder, content: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(str(Path("qrels") / "test.tsv")) + message):
        load_data(folder(test=content))


# Folder -> documents and judged queries of each split, as its makers count them.
REAL = {
    "empathetic_response": (5616, {"test": 2713, "train": 2972}),
    "esconv": (8, {"dev": 2621, "test": 2801, "train": 12271}),
    "metatool": (199, {"dev": 2054, "test": 2055, "test_multi": 497, "train": 16435}),
    "msmarco_dl1920": (30045, {"test": 97}),
    "nfcorpus": (3633, {"dev": 324, "test": 323, "train": 2590}),
    "openbookqa": (16442, {"test": 500, "train": 4957}),
    "saycan": (69, {"test": 81}),
    "saycan_next": (69, {"dev": 38, "test": 125, "train": 195}),
    "scifact": (5183, {"test": 300, "train": 809}),
    "strategyqa_facts": (6106, {"test": 229, "train": 2061}),
}


@pytest.mark.parametrize("name", REAL)
def test_real_folders_load_and_count_right(real_data: Path, name: str) -> None:
    documents, judged = REAL[name]
    data = load_data(real_data / name)
    assert data.name == name
    assert len(data.documents) == documents
    assert {split: len(data.labelled_queries(split)) for split in judged} == judged


def test_requests_are_added_to_a_corpus_or_a_data_set_and_those_an_llm_wrote_are_known(
    folder: Folder, tmp_path: Path
) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text('{"_id": "g1", "text": "so dark", "metadata": {"generated": true}}\n{"text": "mine"}\n')
    shop = folder(test=QRELS)
    data = add_requests(load_data(shop), path)
    assert list(data.queries.values()) == ["it is dark", "it falls off", "so dark", "mine"]
    assert data.generated == {"g1"} and data.qrels == load_data(shop).qrels
    alone = load_requests(shop, path)
    assert alone == add_requests(load_corpus(shop), path) and list(alone.queries) == ["g1", "2"]
    path.write_text('{"_id": "q1", "text": "so dark"}\n')
    with pytest.raises(InputError, match="_id 'q1' is a query of shop, too"):
        add_requests(load_data(shop), path)


def test_a_judged_document_that_the_corpus_lacks_is_told_and_kept(folder: Folder) -> None:
    path = folder(
        test=QRELS + "q2\tgone\t1\n", only=HEADER + "q1\tgone\t1\nq2\tlost\t1\n", rest=HEADER + "q2\tlamp\t1\n"
    )
    with pytest.warns(UserWarning, match=r"test\.tsv: 1 judged documents are not in corpus\.jsonl \(line 5: 'gone'\)"):
        data = load_data(path)
    assert data.qrels["test"]["q2"] == {"rope": 2, "gone": 1}
    assert list(data.labelled_queries("only")) == ["q1", "q2"]  # measured, and not found
    assert data.positives("test") == {"q1": ["lamp"], "q2": ["rope"]}  # what can be learnt from
    with pytest.raises(InputError, match="split 'only' of shop: the corpus lacks all relevant documents"):
        data.positives("only")
    union = concatenate([data, replace(data, name="other")], max_queries_per_document=1)
    assert union.qrels["only"]["other/q1"] == {"other/gone": 1}


def test_numbers_too_long_and_values_too_deep_are_told(folder: Folder) -> None:
    for bad in ("1" * 5000, "[" * 3000 + "]" * 3000):
        path = folder(f'{{"_id": "a", "text": "b", "metadata": {{"n": {bad}}}}}')
        with pytest.raises(InputError, match=r"corpus\.jsonl, line 1: .*(too long|nested)") as raised:
            list(read_corpus(path))
        assert len(str(raised.value)) < 400
        (path / "corpus.jsonl").unlink()
        (path / "qrels").rmdir()
        (path / "queries.jsonl").unlink()
        path.rmdir()


@pytest.mark.parametrize("value", ["NaN", "1e999", str(2**64), '"\\ud83d"', "[" * 17 + "]" * 17])
def test_metadata_that_would_not_come_back_are_refused_by_line_and_id(folder: Folder, value: str) -> None:
    path = folder(f'{{"_id": "pump", "text": "b", "metadata": {{"n": {value}}}}}')
    with pytest.raises(InputError, match=r"corpus\.jsonl, line 1: metadata of document 'pump': "):
        list(read_corpus(path))


def test_a_corpus_is_read_from_where_it_was_named(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder()
    monkeypatch.chdir(path)
    documents = read_corpus("corpus.jsonl")
    monkeypatch.chdir(path.parent)
    assert [document.id for document in documents] == ["lamp", "rope"]
