import base64

import numpy as np
import pytest


@pytest.mark.parametrize("side", ["query", "document"])
def test_embeddings_are_the_retrievers(standing, side):
    encode = getattr(standing.index.retriever, f"encode_{side}")
    answer = standing.post("/v1/embeddings", model=f"rabtriever-{side}", input=["lamp", "music"]).json()
    found = [row["embedding"] for row in answer["data"]]
    np.testing.assert_allclose(found, encode(["lamp", "music"]), atol=1e-5)
    assert [row["index"] for row in answer["data"]] == [0, 1] and answer["usage"]["prompt_tokens"] > 1
    coded = standing.post("/v1/embeddings", model=f"rabtriever-{side}", input="lamp", encoding_format="base64").json()
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4"), found[0])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "text-embedding-3-small", "input": "a"}, "model"),
        ({"model": "rabtriever-query", "input": []}, "input"),
        ({"model": "rabtriever-query", "input": [1, 2]}, "input"),
        ({"model": "rabtriever-query", "input": "a", "dimensions": 3}, "dimensions"),
        ({"model": "rabtriever-query", "input": " "}, "input"),
    ],
)
def test_a_wrong_field_is_named(standing, body, param):
    answer = standing.post("/v1/embeddings", **body)
    assert answer.status_code == 422 and answer.json()["error"]["param"].split(".")[0] == param
