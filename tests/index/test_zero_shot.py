"""Over an encoder, an index of an untrained retriever is its ranking, of a trained one the unfolded score."""

import numpy as np
import pytest
import torch
from encoders.models import HashEncoder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scoring.predictors import random_predictor

from rabtriever.data import Document
from rabtriever.errors import InputError
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
    similarity, orders = by_similarity(encoder)
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


def by_similarity(encoder):
    """The order of all documents for each query, by e_q . e_d of float64; of equal texts, the first first."""
    z_q, z_d = encoder.encode_queries(QUERIES), encoder.encode_documents([one.content for one in DOCUMENTS])
    similarity = z_q.astype(np.float64) @ z_d.T.astype(np.float64)
    return similarity, np.argsort(-similarity.round(9), axis=1, kind="stable")


@pytest.mark.parametrize("fusion", [Fusion(30.0, 1.0, 0.25, -3.0), Fusion(1.0, 0.5, 2.0), Fusion(20.0, 0.0, 0.0)])
def test_mode_encoder_ranks_by_the_similarity_alone(tmp_path, fusion):
    torch.manual_seed(0)
    encoder = HashEncoder()
    retriever = Rabtriever(encoder, random_predictor(12, 8, "mlp"), fusion=fusion, trained_on=text_keys(TEXTS[::2]))
    Index.build(tmp_path / "index", retriever, DOCUMENTS)
    similarity, orders = by_similarity(encoder)
    vectors = retriever.encode_query(QUERIES)
    before = vectors.copy()
    alone = retriever.encoder_only(vectors, QUERIES)
    np.testing.assert_array_equal(vectors, before)
    log_odds = retriever.similarity(alone, retriever.encode_document([one.content for one in DOCUMENTS]))
    np.testing.assert_allclose(log_odds, fusion.beta * similarity + fusion.offset, atol=1e-4)
    for precision in PRECISIONS:
        index = Index.open(tmp_path / "index", retriever, precision=precision)
        for k in (1, 3, len(DOCUMENTS)):
            for order, row, hits in zip(orders, log_odds, index.search(QUERIES, k, mode="encoder"), strict=True):
                assert [hit.id for hit in hits] == [f"d{i}" for i in order[:k]], (precision, k)
                np.testing.assert_allclose([hit.log_odds for hit in hits], row[order[:k]], atol=1e-4)
        for order, hits in zip(orders, index.search(QUERIES, 3, mode="encoder", where="id > 'd3'"), strict=True):
            assert [hit.id for hit in hits] == [f"d{i}" for i in order if f"d{i}" > "d3"][:3]
        if fusion.gain:
            assert index.search(QUERIES, 3, mode="encoder") != index.search(QUERIES, 3, mode="exact")


def test_mode_encoder_of_an_untrained_retriever_is_exact(sentence_encoders, tmp_path):
    index = Index.build(tmp_path / "index", Rabtriever(sentence_encoders["bert"]), DOCUMENTS)
    assert index.search(QUERIES, 7, mode="encoder") == index.search(QUERIES, 7, mode="exact")


@pytest.mark.parametrize(
    ("kind", "beta", "message"),
    [
        ("mlp", 0.0, "score has no similarity; choose another"),
        ("quadratic", 20.0, "cannot be left out of its documents"),
    ],
)
def test_mode_encoder_is_refused_where_there_is_nothing_to_show(tmp_path, kind, beta, message):
    retriever = Rabtriever(HashEncoder(), random_predictor(12, 8, kind), fusion=Fusion(beta))
    index = Index.build(tmp_path / "index", retriever, DOCUMENTS)
    with pytest.raises(InputError, match=f"^mode 'encoder': .*{message}") as refused:
        index.search("bread", mode="encoder")
    assert refused.value.param == "mode" and "\n" not in str(refused.value)


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
