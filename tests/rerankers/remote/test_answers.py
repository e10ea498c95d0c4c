import json

import pytest

from rabtriever.errors import StorageError
from rabtriever.rerankers.remote.answers import AnswerCache, CachedAnswer, answer_key

ANSWERS = {"a": CachedAnswer(1.25, 0.5), "b": CachedAnswer(-3.0)}


@pytest.fixture
def cache(tmp_path):
    made = AnswerCache(tmp_path / "remote" / "answers.jsonl")
    made.add(ANSWERS.items())
    return made


def test_answers_are_there_again(cache):
    again = AnswerCache(cache.path)
    assert {key: again.get(key) for key in ANSWERS} == ANSWERS and len(again) == 2 and again.get("c") is None


def test_a_torn_line_is_skipped_wherever_it_stands(cache):
    whole = cache.path.read_bytes()
    for cut in range(1, len(whole)):
        cache.path.write_bytes(whole[:cut])
        torn = AnswerCache(cache.path)
        assert all(torn.get(key) in (None, answer) for key, answer in ANSWERS.items())
        torn.add([("c", CachedAnswer(7.0))])
        again = AnswerCache(cache.path)
        assert again.get("c") == CachedAnswer(7.0) and len(again) == len(torn)


@pytest.mark.parametrize("line", ["[]", "{}", "7", '{"key": "z", "log_odds": NaN, "mass": null}', "\u00ff", "null"])
def test_a_line_that_is_no_answer_is_skipped(line, cache):
    with cache.path.open("a", encoding="latin-1") as file:
        file.write(f"\n{line}\n")
    assert len(AnswerCache(cache.path)) == 2


def test_two_writers_share_a_file(cache):
    other = AnswerCache(cache.path)
    other.add([("c", CachedAnswer(1.0))])
    cache.add([("d", CachedAnswer(2.0))])
    assert len(AnswerCache(cache.path)) == 4


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_paid(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="answers cannot be kept"):
        AnswerCache(tmp_path / "file" / "answers.jsonl").prepare()


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(StorageError, match="cannot be read"):
        AnswerCache(tmp_path)  # a folder


def test_the_key_tells_texts_apart_and_the_file_holds_no_text(cache):
    assert len({answer_key("a", "bc"), answer_key("ab", "c"), answer_key("bc", "a")}) == 3
    assert {tuple(json.loads(line)) for line in cache.path.read_text().split("\n") if line} == {
        ("key", "log_odds", "mass")
    }
