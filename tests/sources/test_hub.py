"""A data set from the stand-in for the hub, then from the cache."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rabtriever.data import Document
from rabtriever.errors import InputError, NotFoundError
from rabtriever.sources import read_source
from rabtriever.sources.hub import PARQUET

NAME = "datasets/me/tools"


@pytest.fixture
def publish(hub, tmp_path):
    def publish(*files):
        for file in files:
            path = tmp_path / "set" / f"{file}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist([{"id": f"{file}-{i}", "text": "x", "n": i} for i in range(2)]), path)
        hub.publish(NAME, tmp_path / "set", PARQUET)

    return publish


def test_rows_of_all_files_of_a_split(publish):
    publish("default/train/0000", "default/train/0001", "default/test/0000")
    expected = [Document(f"default/train/000{f}-{i}", "x", "", {"n": i}) for f in range(2) for i in range(2)]
    assert list(read_source("hf:me/tools")) == expected
    assert [one.id for one in read_source("hf:me/tools:default:test")] == ["default/test/0000-0", "default/test/0000-1"]


def test_a_corpus_is_the_usual_split_of_several(publish):
    publish("corpus/corpus/0000", "queries/queries/0000")
    assert next(read_source("hf:me/tools")).id == "corpus/corpus/0000-0"
    assert next(read_source("hf:me/tools:queries")).id == "queries/queries/0000-0"


def test_offline_what_was_downloaded_is_read_from_the_cache(publish, monkeypatch):
    publish("default/train/0000")
    online = list(read_source("hf:me/tools"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert list(read_source("hf:me/tools")) == online
    with pytest.raises(NotFoundError, match="hf:me/other: the hub gave no Parquet files"):
        list(read_source("hf:me/other"))


def test_what_the_data_set_lacks(publish):
    publish("a/one/0000", "b/one/0000")
    for source, fault in (
        ("hf:me/tools", "more than one config; there are a, b"),
        ("hf:me/tools:c", "no config 'c'; there are a, b"),
        ("hf:me/tools:a:two", "no split 'two'; there are one"),
    ):
        with pytest.raises(NotFoundError, match=fault):
            list(read_source(source))
    with pytest.raises(InputError, match=r"no column 'body'; there are id, text, n"):
        list(read_source("hf:me/tools:a", text_column="body"))
