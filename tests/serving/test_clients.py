"""Clients that people have already, unmodified."""

import os

import numpy as np
import pytest

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
TEXTS = ["turn the lamp light", "find the weather", "a recipe for bread"]


@pytest.fixture
def expected(standing):
    rows = standing.post("/v1/rerank", query="lamp", documents=TEXTS).json()["results"]
    return [(row["index"], row["relevance_score"]) for row in rows]


def test_cohere(standing, expected):
    cohere = pytest.importorskip("cohere")
    for client in (cohere.Client, cohere.ClientV2):
        with client(api_key="none", base_url=standing.url) as co:
            for model in ("retriever", "reranker"):
                answer = co.rerank(model=model, query="lamp", documents=TEXTS, top_n=3)
                assert len(answer.results) == 3
                found = [(row.index, row.relevance_score) for row in answer.results]
                rows = standing.post("/v2/rerank", model=model, query="lamp", documents=TEXTS).json()["results"]
                assert found == [(row["index"], row["relevance_score"]) for row in rows]
                assert found == expected or model == "reranker"
    with cohere.Client(api_key="none", base_url=standing.url) as co:
        documents = [{"text": text} for text in TEXTS]
        answer = co.rerank(model="retriever", query="lamp", documents=documents, return_documents=True)
        assert [row.document.text for row in answer.results] == [TEXTS[row.index] for row in answer.results]
        assert answer.meta.api_version.version == "1"


def test_cohere_is_told_what_is_wrong(live_with_keys):
    cohere = pytest.importorskip("cohere")
    with cohere.ClientV2(api_key="wrong", base_url=live_with_keys.url) as co, pytest.raises(cohere.UnauthorizedError):
        co.rerank(model="retriever", query="lamp", documents=TEXTS)
    with cohere.ClientV2(api_key=live_with_keys.read_key, base_url=live_with_keys.url) as co:
        assert co.rerank(model="retriever", query="lamp", documents=TEXTS).results
        with pytest.raises(cohere.UnprocessableEntityError, match="retriever"):
            co.rerank(model="rerank-v3.5", query="lamp", documents=TEXTS)


def test_langchain(standing, expected):
    langchain = pytest.importorskip("langchain_cohere")
    from langchain_core.documents import Document

    reranker = langchain.CohereRerank(base_url=standing.url, cohere_api_key="none", model="retriever", top_n=2)
    found = reranker.compress_documents([Document(page_content=text) for text in TEXTS], "lamp")
    assert [(one.page_content, one.metadata["relevance_score"]) for one in found] == [
        (TEXTS[i], score) for i, score in expected[:2]
    ]


def test_haystacks_ranker_for_text_embeddings_inference(standing, expected):
    module = pytest.importorskip("haystack_integrations.components.rankers.huggingface_api")
    from haystack import Document

    names = [name for name in dir(module) if name.endswith("Ranker")]
    for options in ({}, {"raw_scores": True}):
        ranker = getattr(module, names[0])(url=standing.url, top_k=3, **options)
        found = ranker.run(query="lamp", documents=[Document(content=text) for text in TEXTS])["documents"]
        assert [one.content for one in found] == [TEXTS[i] for i, _ in expected]
        assert options or [one.score for one in found] == [score for _, score in expected]


def test_litellm(standing, expected):
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the network for a table of prices
    litellm = pytest.importorskip("litellm")
    asked = {"query": "lamp", "documents": TEXTS, "api_key": "none", "top_n": 3}
    for model, path in (("cohere/retriever", "/v2/rerank"), ("jina_ai/retriever", "/v1/rerank")):
        answer = litellm.rerank(model, api_base=standing.url + path, **asked)
        assert [(row["index"], row["relevance_score"]) for row in answer.results] == expected


def test_openai(standing):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(api_key="none", base_url=f"{standing.url}/v1") as client:
        for side in ("query", "document"):
            answer = client.embeddings.create(model=f"rabtriever-{side}", input=TEXTS)  # asks for base64 by itself
            rows = standing.post("/v1/embeddings", model=f"rabtriever-{side}", input=TEXTS).json()["data"]
            np.testing.assert_allclose([r.embedding for r in answer.data], [r["embedding"] for r in rows], atol=1e-6)
        with pytest.raises(openai.UnprocessableEntityError, match="model"):
            client.embeddings.create(model="text-embedding-3-small", input="a")
