"""Segments of shards in an object store: made once, uploaded, downloaded where a replica starts."""

from uuid import uuid4

import numpy as np
import pytest

from rabtriever.cluster.segments import _build, fetch_segments
from rabtriever.cluster.shards import Shard, ShardedIndex
from rabtriever.data import Document
from rabtriever.evaluation.lexical import ConstantRetriever
from rabtriever.index import Index, current_view
from rabtriever.scoring.layout import ScoreLayout

moto = pytest.importorskip("moto.server")


class Inner(ConstantRetriever):
    layout = ScoreLayout(n_inner=4)

    def encode_query(self, inputs):
        return np.stack([np.random.default_rng(len(text)).standard_normal(6) for text in inputs]).astype(np.float32)


@pytest.fixture
def index(monkeypatch, tmp_path):
    """An index in an object store on loopback."""
    server = moto.ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    variables = {"ENDPOINT_URL": f"http://{host}:{port}", "ALLOW_HTTP": "true", "REGION": "us-east-1"}
    variables |= {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}
    for name, value in variables.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    import boto3

    bucket = f"shards-{uuid4().hex}"  # moto's buckets outlive its servers
    boto3.client("s3").create_bucket(Bucket=bucket)
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "writer"))
    index = Index.create(f"s3://{bucket}/index", Inner())
    add(index, 0, 300)
    yield index
    server.stop()


def add(index, first, n):
    latents = np.random.default_rng(first).standard_normal((n, 6)).astype(np.float32)
    latents[:, -2] = 1
    index.add([Document(f"d{i}", f"text {i}") for i in range(first, first + n)], latents=latents)


def test_a_replica_elsewhere_makes_no_segment(index, monkeypatch, tmp_path):
    uri = index.table.uri
    sizes = [_build(uri, number, 2, "int8") for number in range(2)]
    assert sum(one["documents"] for one in sizes) == 300
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "elsewhere"))
    for number in range(2):
        fetch_segments(uri, number, 2)
        fetch_segments(uri, number, 2)  # again: nothing is to do
    with monkeypatch.context() as patch:
        patch.setattr(current_view, "_make", lambda *args: pytest.fail("it makes a segment"))
        shards = ShardedIndex(uri, index.retriever, [Shard(uri, number, 2) for number in range(2)])
        found = shards.search(["a", "bc"], 50)
    assert found == index.search(["a", "bc"], 50)


def test_what_is_not_used_any_more_goes_and_what_came_is_made_where_it_is_missed(index, monkeypatch, tmp_path):
    uri = index.table.uri
    for number in range(2):
        _build(uri, number, 2, "int8")
    stored = _stored(uri)
    index.delete([f"d{i}" for i in range(300)])
    monkeypatch.setattr(current_view, "MIN_ROWS_TO_MERGE", 10)
    add(index, 300, 40)
    for number in range(2):
        assert _build(uri, number, 2, "int8")["documents"] > 0
    assert _stored(uri).isdisjoint(stored)
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "elsewhere"))
    for number in range(2):
        fetch_segments(uri, number, 2)
    add(index, 340, 5)
    shards = ShardedIndex(uri, index.retriever, [Shard(uri, number, 2) for number in range(2)])
    assert {hit.id for hit in shards.search("a", 100)} == {f"d{i}" for i in range(300, 345)}


def _stored(uri):
    import boto3

    bucket = uri.split("/")[2]
    listed = boto3.client("s3").list_objects_v2(Bucket=bucket, Prefix="index/segments/")["Contents"]
    return {one["Key"].rsplit("/", 1)[0] for one in listed if one["Key"].endswith("segment.json")}
