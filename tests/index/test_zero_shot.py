"""Over an encoder, an index of an untrained retriever is its ranking, of a trained one the unfolded score."""

import numpy as np
import pytest
import torch
from encoders.models import HashEncoder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scoring.predictors import random_predictor

from rabtriever.data import Document
from rabtriever.index import Index
from rabtriever.index.quantization import PRECISIONS
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.fusion import ZERO_SHOT_BETA, ZERO_SHOT_OFFSET, Fusion, text_keys
from rabtriever.scoring.predictor import KINDS, Predictor

TOPICS = ["weather", "flight", "recipe", "music", "lamp", "sponge", "hotel", "bread"]
WORDS = ["city", "table", "wind", "song", "show me", "turn the"]
TEXTS = [f"{word} {topic}" for topic in TOPICS for word in WORDS]
# The same text under several ids, not side by side: these tie.
DOCUMENTS = [Document(f"d{i}", text) for i, text in enumerate([*TEXTS, *TEXTS[::5]])]
QUERIES = ["please show the weather", "bread", "where is my hotel", TEXTS[7], TEXTS[10]]


def untrained(encoder, kind):
    """A retriever over an encoder whose correction is none, or that of a predictor before its first step."""
    if kind is None:
        return Rabtriever(encoder)
    predictor = Predictor(encoder.hidden_size, 16, kind=kind, choice_direction=torch.ones(1), output_size=1)
    for weight in (predictor.output.weight, predictor.output.bias):
        torch.nn.init.zeros_(weight)
    for side in ("query", "document"):
        predictor.fit_normalization(side, torch.randn(20, encoder.hidden_size))
    fusion = Fusion(ZERO_SHOT_BETA, offset=ZERO_SHOT_OFFSET)
    return Rabtriever(encoder, predictor, fusion=fusion, trained_on=text_keys(TEXTS[::2]))


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_an_untrained_retriever_ranks_as_its_encoder(sentence_encoders, tmp_path, kind):
    encoder = sentence_encoders["bert"]
    retriever = untrained(encoder, kind)
    Index.build(tmp_path / "index", retriever, DOCUMENTS)
    z_q = encoder.encode_queries(QUERIES).astype(np.float64)
    z_d = encoder.encode_documents([document.content for document in DOCUMENTS]).astype(np.float64)
    similarity = z_q @ z_d.T
    orders = np.argsort(-similarity.round(9), axis=1, kind="stable")  # equal texts tie: the first comes first
    gaps = -np.diff(np.sort(np.unique(similarity.round(9)))[::-1])
    assert (similarity.round(9)[:, 0] == similarity.round(9)[:, len(TEXTS)]).all() and np.median(gaps) < 1e-3
    expected = {query: [f"d{i}" for i in order] for query, order in zip(QUERIES, orders, strict=True)}
    for precision in PRECISIONS:
        index = Index.open(tmp_path / "index", retriever, precision=precision)
        for mode in ("auto", "exact"):
            for k in (1, 3, len(TEXTS), len(DOCUMENTS)):
                for query, hits in zip(QUERIES, index.search(QUERIES, k, mode=mode), strict=True):
                    assert [hit.id for hit in hits] == expected[query][:k], (precision, mode, k)
        found = {hit.id: hit.log_odds for hit in index.search(QUERIES[0], len(DOCUMENTS))}
        log_odds = ZERO_SHOT_BETA * similarity[0] + ZERO_SHOT_OFFSET
        np.testing.assert_allclose([found[document.id] for document in DOCUMENTS], log_odds, atol=1e-4)


def test_a_retriever_is_made_of_a_folder_of_an_encoder_alone(sentence_folders, sentence_encoders):
    options = {"device": "cpu", "backend": "torch"}
    made = [load(sentence_folders["bert"], **options) for load in (Rabtriever.from_encoder, Rabtriever.from_pretrained)]
    for retriever in made:
        assert retriever.fingerprint == Rabtriever(sentence_encoders["bert"]).fingerprint
        assert retriever.predictor is None and retriever.reranker is None
        assert retriever.name_or_path == str(sentence_folders["bert"])
        ranking = [hit["corpus_id"] for hit in retriever.rank("bread", TEXTS)]
        similarity = sentence_encoders["bert"].encode_documents(TEXTS) @ retriever.encoder.encode_queries(["bread"])[0]
        assert ranking == np.argsort(-similarity, kind="stable").tolist()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(KINDS),
    output=st.sampled_from([1, 12, 13]),
    beta=st.sampled_from([0.0, 1.0, 20.0, 60.0]),
    gain=st.sampled_from([0.0, 0.5, 1.0]),
    new_gain=st.sampled_from([0.0, 0.25, 1.0]),
    offset=st.sampled_from([0.0, -10.0, 3.0]),
    seed=st.integers(0, 2**20),
)
def test_folded_is_unfolded_through_the_index(tmp_path_factory, kind, output, beta, gain, new_gain, offset, seed):
    torch.manual_seed(seed)
    encoder, predictor = HashEncoder(), random_predictor(12, 8, kind, output)
    known = TEXTS[::2]
    fusion = Fusion(beta, gain, new_gain, offset)
    retriever = Rabtriever(encoder, predictor, fusion=fusion, trained_on=text_keys(known))
    folder = tmp_path_factory.mktemp("fold") / "index"
    Index.build(folder, retriever, DOCUMENTS)
    z_q = torch.from_numpy(encoder.encode_queries(QUERIES)).double()
    z_d = torch.from_numpy(encoder.encode_documents([document.content for document in DOCUMENTS])).double()
    gains = torch.tensor([gain if document.content in known else new_gain for document in DOCUMENTS])
    z_hat = predictor.double()(z_q[:, None], z_d[None])
    expected = beta * z_q @ z_d.T + gains * (z_hat @ predictor.choice_direction) + offset
    expected = expected.detach().numpy()
    scale = max(1.0, np.abs(expected).max())
    precision = list(PRECISIONS)[seed % len(PRECISIONS)]
    index = Index.open(folder, retriever, precision=precision)
    for row, hits in zip(expected, index.search(QUERIES, len(DOCUMENTS)), strict=True):
        found = {hit.id: hit.log_odds for hit in hits}
        np.testing.assert_allclose([found[document.id] for document in DOCUMENTS], row, atol=1e-4 * scale)
    for row, hits in zip(expected, index.search(QUERIES, 3, mode="exact"), strict=True):
        best = sorted(row, reverse=True)[:3]
        np.testing.assert_allclose([hit.log_odds for hit in hits], best, atol=1e-4 * scale)
