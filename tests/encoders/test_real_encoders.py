"""What eight bits cost real encoders: ``minilm``, and the folders or hub ids that RABTRIEVER_ENCODERS lists."""

import os
from importlib.resources import files

import numpy as np
import pytest
from scipy.stats import spearmanr

from rabtriever.data import load_data
from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.errors import InputError

pytestmark = pytest.mark.slow
ENCODERS = ["minilm", *filter(None, os.environ.get("RABTRIEVER_ENCODERS", "").split(os.pathsep))]


@pytest.mark.parametrize("name", ENCODERS, ids=lambda name: os.path.basename(name.rstrip("/")))
def test_int8_ranks_as_float32_does(name):
    options = {"device": "cpu", "local_files_only": True}
    try:
        encoders = [SentenceEncoder.from_pretrained(name, backend=backend, **options) for backend in ("torch", "int8")]
    except InputError as error:
        pytest.skip(str(error))
    data = load_data(str(files("rabtriever") / "demo"))
    queries, documents = list(data.queries.values())[:40], [d.content for d in data.documents.values()][:60]
    exact, found = (one.encode_queries(queries) @ one.encode_documents(documents).T for one in encoders)
    assert spearmanr(exact.ravel(), found.ravel())[0] > 0.995
    assert np.mean(exact.argmax(1) == found.argmax(1)) > 0.9
    alone = np.concatenate([encoders[1].encode_queries([query]) for query in queries[:5]])
    np.testing.assert_allclose(alone, encoders[1].encode_queries(queries)[:5], atol=1e-6)
